//! The same configs through two folders of plugins: what each prints, does to the machine, and leaves.

mod trials;

use crate::suite::bed::{Bed, Pod};
use crate::suite::expect::Expectations;
use crate::suite::subject::Subject;
use crate::suite::{Ask, Role};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use trials::Trial;

/// What one side of a trial shows, by aspect: lines with everything masked that is different in each run.
type Shown = BTreeMap<&'static str, Vec<String>>;

/// One trial on both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// `PLUGIN/TRIAL`
    pub name: String,
    /// The config that both got.
    pub config: Value,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Why it could not be tried, if it could not.
    pub broken: String,
}

/// One aspect in which the sides differ.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Of what: outcome, code, message, result, links, addresses, routes, rules, shaping, files, inside, check, del, left.
    pub aspect: String,
    /// Lines that the first folder's plugin alone has.
    pub only_first: Vec<String>,
    /// Lines that the second folder's plugin alone has.
    pub only_second: Vec<String>,
    /// Why that is known, if it is.
    pub reason: String,
}

/// Every trial of the plugins that are in both folders. `known` has a line `PLUGIN/TRIAL:ASPECT REASON` for what is known.
#[must_use]
pub fn compare(pairs: &[(Subject, Subject)], filters: &[String], known: &Expectations) -> Vec<Comparison> {
    let mut done = Vec::new();
    for (first, second) in pairs {
        for trial in trials::of(first) {
            let name = format!("{}/{}", first.name, trial.name);
            if !filters.is_empty() && !filters.iter().any(|one| crate::suite::expect::matches(one, &name)) {
                continue;
            }
            let version = trial.version.unwrap_or(if first.newest() < second.newest() {
                first.newest()
            } else {
                second.newest()
            });
            let sides = [first, second].map(|subject| {
                // The bed panics when the machine does not do what it has to.
                catch_unwind(AssertUnwindSafe(|| show(subject, version, &trial)))
                    .map_err(|_| format!("the machine did not do what {} needs", subject.dir.display()))
            });
            done.push(match sides {
                [Ok((config, one)), Ok((_, other))] => {
                    let differences = differences(&name, &one, &other, known);
                    Comparison { name, config, differences, broken: String::new() }
                }
                [Err(why), _] | [_, Err(why)] => {
                    Comparison { name, config: Value::Null, differences: vec![], broken: why }
                }
            });
        }
    }
    done
}

fn differences(name: &str, one: &Shown, other: &Shown, known: &Expectations) -> Vec<Difference> {
    let none = Vec::new();
    let mut found = Vec::new();
    let aspects: std::collections::BTreeSet<&&str> = one.keys().chain(other.keys()).collect();
    for aspect in aspects {
        let (first, second) = (one.get(*aspect).unwrap_or(&none), other.get(*aspect).unwrap_or(&none));
        if first == second {
            continue;
        }
        let only = |these: &[String], those: &[String]| {
            these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>()
        };
        let reason = known.reason(&format!("{name}:{aspect}")).map(|(reason, _)| reason.to_owned());
        found.push(Difference {
            aspect: (*aspect).to_string(),
            only_first: only(first, second),
            only_second: only(second, first),
            reason: reason.unwrap_or_default(),
        });
    }
    found
}

/// Puts one side through a trial: ADD, CHECK, DEL.
fn show(subject: &Subject, version: &'static str, trial: &Trial) -> (Value, Shown) {
    let bed = Bed::new(subject, version);
    let mask = Mask::of(&bed);
    for command in trial.before {
        bed.ip(command);
    }
    let pod = bed.pod();
    let before = bed.look();
    let mut shown = Shown::new();
    let ask = |verb: &str, result: Option<&Value>| trial_call(&bed, verb, &pod, trial, result);
    let config = ask("ADD", None).conf;
    let added = ask("ADD", None).run();
    let answer: Value = serde_json::from_str(&added.0.stdout).unwrap_or_default();
    shown.insert("outcome", vec![if added.0.is_ok() { "success" } else { "failure" }.to_owned()]);
    if added.0.is_ok() {
        let pretty = serde_json::to_string_pretty(&without_empty_dns(answer.clone())).unwrap_or_default();
        shown.insert("result", pretty.lines().map(|line| mask.apply(line)).collect());
    } else {
        shown.insert("code", vec![answer["code"].to_string()]);
        shown.insert("message", vec![mask.apply(answer["msg"].as_str().unwrap_or_default())]);
    }
    for line in bed.look().iter().filter(|line| !before.contains(line)) {
        // Whose a link is, people see in its alias; not everybody writes one.
        let (line, alias) = part_alias(line);
        shown.entry("alias").or_default().extend(alias.map(|alias| mask.apply(&alias)));
        shown.entry(aspect(&line)).or_default().push(mask.apply(&line));
    }
    shown
        .insert("inside", bed.look_inside(&pod).iter().map(|line| mask.apply(&part_alias(line).0)).collect());
    if added.0.is_ok() && version >= "0.4.0" {
        shown.insert("check", vec![ended(ask("CHECK", Some(&answer)).run().0.is_ok())]);
    }
    shown.insert("del", vec![ended(ask("DEL", added.0.is_ok().then_some(&answer)).run().0.is_ok())]);
    bed.finish(&pod);
    shown.insert("left", bed.left_since(&before).iter().map(|line| mask.apply(line)).collect());
    for (aspect, lines) in &mut shown {
        lines.retain(|line| !line.is_empty());
        if *aspect != "result" {
            // They came in the order of names that are masked now.
            lines.sort();
        }
    }
    (config, shown)
}

/// What a line of [`Bed::look`] is about.
fn aspect(line: &str) -> &'static str {
    match line.split(' ').next().unwrap_or_default() {
        "link" | "VLANs" => "links",
        "address" => "addresses",
        "route" => "routes",
        "rule" => "rules",
        "shaping" => "shaping",
        _ => "files",
    }
}

/// A link's line without its alias, and that.
fn part_alias(line: &str) -> (String, Option<String>) {
    let parted =
        line.split_once(" alias ").and_then(|(head, rest)| Some((head, rest.split_once(" promisc ")?)));
    match parted.filter(|_| line.starts_with("link ")) {
        Some((head, (alias, tail))) => {
            (format!("{head} promisc {tail}"), (alias != "null").then(|| alias.to_owned()))
        }
        None => (line.to_owned(), None),
    }
}

/// `dns` without content says as much as none.
fn without_empty_dns(mut result: Value) -> Value {
    if result["dns"].as_object().is_some_and(serde_json::Map::is_empty)
        && let Some(all) = result.as_object_mut()
    {
        all.remove("dns");
    }
    result
}

fn ended(ok: bool) -> String {
    if ok { "success" } else { "failure" }.to_owned()
}

fn trial_call<'a>(bed: &'a Bed<'_>, verb: &str, pod: &Pod, trial: &Trial, result: Option<&Value>) -> Ask<'a> {
    let mut ask = bed.ask(verb, pod);
    for (pointer, value) in &trial.changes {
        ask = match (value, pointer.strip_prefix('/')) {
            (Value::Null, Some(key)) if !key.contains('/') => ask.unset(key),
            _ => ask.set(pointer, value.clone()),
        };
    }
    if let Some(args) = trial.args {
        ask = ask.env("CNI_ARGS", args);
    }
    match result {
        Some(result) if bed.version >= "0.4.0" => ask.set("/prevResult", result.clone()),
        _ if verb == "ADD" || bed.subject.role == Role::Chained => ask,
        _ => ask.unset("prevResult"),
    }
}

/// Hides what is different in each run.
struct Mask {
    dir: String,
}

impl Mask {
    fn of(bed: &Bed) -> Self {
        Self { dir: bed.dir().to_string_lossy().into_owned() }
    }

    fn apply(&self, line: &str) -> String {
        let line = line.trim_end().replace(&self.dir, "$DIR");
        let mut masked = String::new();
        let mut word = String::new();
        for c in line.chars().chain(['\n']) {
            if c.is_ascii_alphanumeric() || c == ':' {
                word.push(c);
            } else {
                masked.push_str(&mask_word(&word));
                word.clear();
                if c != '\n' {
                    masked.push(c);
                }
            }
        }
        masked
    }
}

/// A MAC that nobody chose, a veth's random name.
fn mask_word(word: &str) -> String {
    let parts: Vec<&str> = word.split(':').collect();
    let is_mac =
        parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
    if is_mac && !word.starts_with("02:00:00:00:") && !word.starts_with("c2:11:22:33:") {
        return "MAC".to_owned();
    }
    let (name, colon) = word.strip_suffix(':').map_or((word, ""), |name| (name, ":"));
    let random = name
        .strip_prefix("veth")
        .is_some_and(|rest| rest.len() >= 8 && rest.chars().all(|c| c.is_ascii_hexdigit()));
    if random { format!("VETH{colon}") } else { word.to_owned() }
}

/// For people at a terminal: what differs, side by side.
#[must_use]
pub fn table(comparisons: &[Comparison], first: &str, second: &str) -> String {
    let mut text = format!("- {first}\n+ {second}\n\n");
    let mut counts = [0, 0, 0];
    for one in comparisons {
        if !one.broken.is_empty() {
            let _ = writeln!(text, "{}: not tried, {}\n", one.name, one.broken);
        }
        for difference in &one.differences {
            let known = if difference.reason.is_empty() {
                String::new()
            } else {
                format!(" (known: {})", difference.reason)
            };
            let _ = writeln!(text, "{}: {}{known}", one.name, difference.aspect);
            for (sign, lines) in [("-", &difference.only_first), ("+", &difference.only_second)] {
                for line in lines {
                    let _ = writeln!(text, "  {sign} {line}");
                }
            }
            counts[if difference.reason.is_empty() { 2 } else { 1 }] += 1;
        }
        counts[0] += usize::from(one.differences.is_empty() && one.broken.is_empty());
    }
    let [same, known, unknown] = counts;
    let _ = writeln!(
        text,
        "\n{} configs: {same} the same in all; {known} known differences, {unknown} others",
        comparisons.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_random_is_masked() {
        let mask = Mask { dir: "/tmp/cni-abc".into() };
        assert_eq!(mask.apply("link veth95f56eedba6: kind veth"), "link VETH: kind veth");
        assert_eq!(mask.apply("\"mac\": \"72:4a:e0:d2:07:10\","), "\"mac\": \"MAC\",");
        assert_eq!(mask.apply("mac 02:00:9f:d2:07:10"), "mac MAC");
        assert_eq!(
            mask.apply("mac 02:00:00:00:01:01 in /tmp/cni-abc/pod1"),
            "mac 02:00:00:00:01:01 in $DIR/pod1"
        );
        assert_eq!(mask.apply("address br0 fd00:83::1/64"), "address br0 fd00:83::1/64");
    }
}
