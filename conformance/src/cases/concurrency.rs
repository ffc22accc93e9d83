//! Section 3: many containers at once.

use super::first_address;
use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Trouble, Verdict, convention, must};
use serde_json::Value;
use std::collections::BTreeSet;

const LIFE: &str = "Section 3: Lifecycle & Ordering";
const RUNTIMES: &str = "container runtimes that try again";
const MANY: usize = 12;

pub const CASES: &[Case] = &[
    must("many.add", LIFE, "ADDs of different containers at once all succeed").on(On::Configured).check(
        |bed| {
            let pods = pods(bed);
            at_once(&pods, |pod| bed.add(pod).map(drop))
        },
    ),
    must(
        "many.add-cold",
        LIFE,
        "ADDs at once on a machine where nothing was made yet all succeed, and CHECK passes",
    )
    .on(On::Configured)
    .since("0.4.0")
    .check(|bed| {
        let pods = pods(bed);
        at_once(&pods, |pod| bed.add(pod).map(drop))?;
        pods.iter().try_for_each(|pod| bed.check(pod))
    }),
    must("many.unique", LIFE, "addresses given at once are different ones").on(On::Addressing).check(|bed| {
        let pods = pods(bed);
        let results: Vec<Result<Value, Trouble>> = std::thread::scope(|scope| {
            let running: Vec<_> = pods.iter().map(|pod| scope.spawn(move || bed.add(pod))).collect();
            running.into_iter().map(joined).collect()
        });
        let results = results.into_iter().collect::<Result<Vec<Value>, Trouble>>()?;
        let seen: BTreeSet<String> = results.iter().map(first_address).collect();
        expect!(seen.len() == MANY, format!("{MANY} addresses"), "{seen:?}");
        Ok(())
    }),
    must("many.del", LIFE, "DELs at once all succeed and leave nothing").on(On::Configured).check(|bed| {
        bed.warm()?;
        let before = bed.look();
        let pods = pods(bed);
        pods.iter().try_for_each(|pod| bed.add(pod).map(drop))?;
        at_once(&pods, |pod| bed.del(pod))?;
        for pod in &pods {
            bed.finish(pod);
        }
        bed.is_back_to(&before)
    }),
    must("many.mixed", LIFE, "ADDs and DELs at once do not disturb each other").on(On::Configured).check(
        |bed| {
            let (come, go) = (pods(bed), pods(bed));
            go.iter().try_for_each(|pod| bed.add(pod).map(drop))?;
            let done: Vec<Verdict> = std::thread::scope(|scope| {
                let adding: Vec<_> =
                    come.iter().map(|pod| scope.spawn(move || bed.add(pod).map(drop))).collect();
                let deleting: Vec<_> = go.iter().map(|pod| scope.spawn(move || bed.del(pod))).collect();
                let all = adding.into_iter().chain(deleting);
                all.map(joined).collect()
            });
            done.into_iter().collect::<Verdict>()?;
            if bed.version >= "0.4.0" { come.iter().try_for_each(|pod| bed.check(pod)) } else { Ok(()) }
        },
    ),
    convention("many.del-same", RUNTIMES, "DELs of one attachment at once all succeed")
        .on(On::Configured)
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let again: Vec<&Pod> = (0..4).map(|_| &pod).collect();
            at_once(&again, |pod| bed.del(pod))
        }),
    convention(
        "many.add-same",
        RUNTIMES,
        "of ADDs of one attachment at once not more than one succeeds, and nothing is left of the others",
    )
    .on(On::Link)
    .check(|bed| {
        bed.warm()?;
        let pod = bed.pod();
        let before = bed.look();
        let replies: Vec<bool> = std::thread::scope(|scope| {
            let running: Vec<_> =
                (0..4).map(|_| scope.spawn(|| bed.ask("ADD", &pod).run().0.is_ok())).collect();
            running.into_iter().map(joined).collect()
        });
        let won = replies.iter().filter(|ok| **ok).count();
        expect!(won <= 1, "one of four at most", "{won}");
        if won == 1 {
            bed.ask("DEL", &pod).unset("prevResult").run().is_silent()?;
        }
        bed.is_back_to(&before)
    }),
    must("many.gc", LIFE, "GC beside ADDs leaves valid attachments whole")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            bed.gc(&[]).run().is_silent()?;
            let pods = pods(bed);
            pods.iter().try_for_each(|pod| bed.add(pod).map(drop))?;
            let valid: Vec<&Pod> = pods.iter().collect();
            let more: Vec<Pod> = (0..4).map(|_| bed.pod()).collect();
            // Those on their way count as valid, as a careful runtime sends them.
            let all: Vec<&Pod> = valid.iter().copied().chain(&more).collect();
            std::thread::scope(|scope| {
                let adding: Vec<_> =
                    more.iter().map(|pod| scope.spawn(move || bed.add(pod).map(drop))).collect();
                let collected = bed.gc(&all).run().is_silent();
                let added: Verdict = adding.into_iter().try_for_each(joined);
                collected.and(added)
            })?;
            all.iter().try_for_each(|pod| bed.check(pod))
        }),
];

fn pods(bed: &Bed) -> Vec<Pod> {
    (0..MANY).map(|_| bed.pod()).collect()
}

/// Does it for all of them at once.
fn at_once<T: Sync>(all: &[T], each: impl Fn(&T) -> Verdict + Sync) -> Verdict {
    std::thread::scope(|scope| {
        let running: Vec<_> = all.iter().map(|one| scope.spawn(|| each(one))).collect();
        running.into_iter().try_for_each(joined)
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|_| panic!("the thread of a call died"))
}
