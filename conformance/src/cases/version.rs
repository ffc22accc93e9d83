//! Section 2, VERSION, and what plugins say about themselves.

use crate::expect;
use crate::suite::version::VERSIONS;
use crate::suite::{Bed, Case, On, Reply, Trouble, convention, must, should};
use serde_json::{Value, json};
use std::time::Duration;

const VERSION: &str = "Section 2: VERSION";
const RESULT: &str = "Section 5: VERSION Success";
const SKEL: &str = "cni/pkg/skel, which most plugins are built on";

pub const CASES: &[Case] = &[
    must("version.answers", VERSION, "VERSION prints an object on stdout and succeeds").check(|bed| {
        let answer = asked(bed).succeeds()?;
        expect!(answer.is_object(), "an object", "{answer}");
        Ok(())
    }),
    must("version.supported", RESULT, "supportedVersions is a list of versions, each once")
        .since("0.2.0")
        .check(|bed| {
            let answer = asked(bed).succeeds()?;
            let list: Vec<&str> = answer["supportedVersions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let sound = |text: &&str| {
                text.split('.').count() == 3 && text.split('.').all(|part| part.parse::<u32>().is_ok())
            };
            let mut unique = list.clone();
            unique.sort_unstable();
            unique.dedup();
            expect!(
                !list.is_empty() && list.iter().all(sound) && unique.len() == list.len(),
                "versions, each once",
                "{answer}"
            );
            Ok(())
        }),
    must("version.echo", RESULT, "cniVersion is the one that was asked with").each().since("0.2.0").check(
        |bed| {
            let ask = bed.ask("VERSION", &bed.pod()).stdin(json!({"cniVersion": bed.version}).to_string());
            let answer = ask.run().succeeds()?;
            expect!(answer["cniVersion"] == *bed.version, format!("cniVersion {}", bed.version), "{answer}");
            Ok(())
        },
    ),
    must("version.command-alone", VERSION, "VERSION needs CNI_COMMAND alone")
        .check(|bed| bed.ask("VERSION", &bed.pod()).without("CNI_PATH").run().succeeds().map(drop)),
    convention("version.any-stdin", SKEL, "VERSION is answered whatever stdin holds").check(|bed| {
        for text in ["", "nonsense", "{}"] {
            let answer = bed.ask("VERSION", &bed.pod()).stdin(text).run().succeeds()?;
            expect!(answer["cniVersion"].is_string(), "an answer with cniVersion", "{answer}");
        }
        Ok(())
    }),
    convention("version.open-stdin", SKEL, "VERSION does not wait for an end of stdin").check(|bed| {
        let ask = bed.ask("VERSION", &bed.pod()).stdin("").hold_stdin(Duration::from_secs(10));
        ask.run().succeeds().map(drop)
    }),
    must("version.changes-nothing", VERSION, "VERSION changes nothing").check(|bed| {
        let before = bed.look();
        asked(bed).succeeds()?;
        bed.is_back_to(&before)
    }),
    must("version.spoken", RESULT, "every version that is listed is spoken: ADD and DEL succeed in it")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.del(&pod)
        }),
    must("version.no-others", RESULT, "a version that is not listed is not spoken: code 1").check(|bed| {
        for version in
            VERSIONS.iter().filter(|version| !bed.subject.versions.iter().any(|spoken| spoken == *version))
        {
            bed.ask("ADD", &bed.pod()).set("/cniVersion", *version).run().fails_with(&[1])?;
        }
        Ok(())
    }),
    should(
        "version.current",
        "Section 1: Configuration format",
        "1.0.0 is spoken, which runtimes send since 2021",
    )
    .check(|bed| speaks(bed, "1.0.0")),
    should("version.newest", "Section 1: Configuration format", "1.1.0 is spoken, which has GC and STATUS")
        .check(|bed| speaks(bed, "1.1.0")),
    convention("about.exit", SKEL, "without CNI_COMMAND a plugin introduces itself and succeeds").check(
        |bed| {
            about(bed)?;
            Ok(())
        },
    ),
    convention("about.versions", SKEL, "without CNI_COMMAND, stderr names the versions that are spoken")
        .check(|bed| {
            let text = about(bed)?;
            for version in &bed.subject.versions {
                expect!(text.contains(version.as_str()), format!("{version} on stderr"), "{text}");
            }
            Ok(())
        }),
    convention(
        "about.semver",
        "Nomad, which looks for it",
        "without CNI_COMMAND, the first line of stderr has the plugin's own version",
    )
    .check(|bed| {
        let text = about(bed)?;
        let first = text.lines().next().unwrap_or_default();
        let is_version = |word: &str| {
            let word = word.trim_start_matches('v');
            let parts: Vec<&str> = word.split(['-', '+']).next().unwrap_or_default().split('.').collect();
            parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
        };
        expect!(
            first.split_whitespace().any(is_version),
            "a version such as v1.2.3 in the first line",
            "{text}"
        );
        Ok(())
    }),
    convention("about.renamed", "BuildKit, which renames plugins", "a plugin works under another file name")
        .check(|bed| {
            let from = bed.subject.dir.join(&bed.subject.name);
            let name = format!("renamed-{}", bed.subject.name);
            let (from, to) = (from.display().to_string(), bed.dir().join(&name).display().to_string());
            bed.run("cp", &["-L", &from, &to]);
            let answer = bed.ask("VERSION", &bed.pod()).program(bed.dir(), &name).run().succeeds()?;
            let said = answer["supportedVersions"].as_array().map_or(0, Vec::len);
            expect!(said == bed.subject.versions.len(), "the same answer", "{answer}");
            Ok(())
        }),
];

fn asked(bed: &Bed) -> Reply {
    bed.ask("VERSION", &bed.pod()).stdin(json!({"cniVersion": bed.version}).to_string()).run()
}

fn speaks(bed: &Bed, version: &str) -> Result<(), Trouble> {
    let spoken = &bed.subject.versions;
    expect!(
        spoken.iter().any(|one| one == version),
        format!("{version} among the versions"),
        "{}",
        spoken.join(", ")
    );
    Ok(())
}

/// What it says when it is not told what to do; stdin stays open, as a terminal's.
fn about(bed: &Bed) -> Result<String, Trouble> {
    let ask =
        bed.ask("VERSION", &bed.pod()).without("CNI_COMMAND").stdin("").hold_stdin(Duration::from_secs(3));
    let reply = ask.run();
    expect!(reply.0.is_ok(), "exit code 0 within 3 seconds, though stdin stays open", "{}", reply.seen());
    expect!(reply.0.stdout.is_empty(), "nothing on stdout", "{}", reply.seen());
    Ok(reply.0.stderr.clone())
}
