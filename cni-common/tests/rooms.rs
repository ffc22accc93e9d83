//! The order of the house: no file uses, by whatever way, a file that uses it; and cni-common's rooms keep the order that
//! its lib.rs tells.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which parts of a folder each of its parts uses: a part is a file, or a folder with all that is in it.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The paths that `source` names from `root` on (`crate`, `super`), each as its first two words; without its tests.
fn named(source: &str, root: &str) -> BTreeSet<Vec<String>> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for rest in code.split(&format!("{root}::")).skip(1) {
        let heads = match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![rest],
        };
        for head in heads {
            let words: Vec<String> = head
                .split("::")
                .take(2)
                .map(|word| word.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
                .collect();
            found.insert(words);
        }
    }
    found
}

/// Where each name of `{a, b::{c, d}, e}` begins, the opening brace already gone.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut heads) = (0_i32, 0, vec![]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(&group[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|entry| sources(&entry))
        .filter(|file| file.extension().is_some_and(|end| end == "rs"))
        .collect()
}

/// The parts of `folder` and what they use of each other, for a crate whose sources are in `root`.
fn uses(root: &Path, folder: &Path) -> Uses {
    let part = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let parts: BTreeSet<String> = entries
        .iter()
        .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "rs"))
        .map(|path| part(path))
        .filter(|name| !["lib", "main", "mod"].contains(&name.as_str()))
        .collect();
    // What a folder's own file passes on is used where it comes from.
    let own =
        ["lib.rs", "mod.rs"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default()).concat();
    let passed_on: BTreeMap<String, String> = own
        .split("pub use ")
        .skip(1)
        .filter_map(|rest| {
            let (from, names) = rest.split_once(';')?.0.split_once("::")?;
            parts.contains(from).then(|| {
                let names =
                    names.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
                names.map(|name| (name.to_owned(), from.to_owned())).collect::<Vec<_>>()
            })
        })
        .flatten()
        .collect();
    // The names that lead from the crate's root to this folder.
    let way: Vec<String> =
        folder.strip_prefix(root).unwrap().iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let mut graph = Uses::new();
    for one in &parts {
        let used = graph.entry(one.clone()).or_default();
        for file in [folder.join(one), folder.join(format!("{one}.rs"))]
            .iter()
            .filter(|path| path.exists())
            .flat_map(|path| sources(path))
        {
            let source = fs::read_to_string(&file).unwrap();
            let from_root = named(&source, "crate").into_iter().filter_map(|words| match way.as_slice() {
                [] => words.first().cloned(),
                [only] if words.first() == Some(only) => words.get(1).cloned(),
                _ => None,
            });
            let is_direct = file.parent() == Some(folder);
            let beside = named(&source, "super").into_iter().filter_map(|words| words.first().cloned());
            let beside = beside.filter(|_| is_direct);
            for name in from_root.chain(beside) {
                let name =
                    if parts.contains(&name) { name } else { passed_on.get(&name).cloned().unwrap_or(name) };
                if parts.contains(&name) && name != *one {
                    used.insert(name);
                }
            }
        }
    }
    graph
}

/// A circle, if there is one: each part uses the next, and the last the first.
fn circle(graph: &Uses) -> Option<Vec<String>> {
    fn walk(graph: &Uses, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        let here = way.last()?.clone();
        for next in graph.get(&here).into_iter().flatten() {
            if let Some(at) = way.iter().position(|part| part == next) {
                return Some(way[at..].to_vec());
            }
            if done.contains(next) {
                continue;
            }
            way.push(next.clone());
            if let Some(found) = walk(graph, way, done) {
                return Some(found);
            }
            way.pop();
        }
        done.insert(here);
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|part| walk(graph, &mut vec![part.clone()], &mut done))
}

/// The uses that lead back to a room that stands later in `order`.
fn ways_back(graph: &Uses, order: &[String]) -> Vec<String> {
    let place = |room: &String| order.iter().position(|known| known == room);
    let back = |from: &String, to: &String| place(from) < place(to) || place(to).is_none();
    let all = graph.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| back(from, to)).map(|(from, to)| format!("{from} uses {to}")).collect()
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    [root.to_owned()].into_iter().chain(inner.flat_map(|path| folders(&path))).collect()
}

fn crates() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let listed = fs::read_to_string(top.join("Cargo.toml")).unwrap();
    let members = listed.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let names = members.split(',').map(|name| name.trim().trim_matches('"'));
    names.map(|name| top.join(name).join("src")).collect()
}

#[test]
fn no_file_is_used_by_what_it_uses() {
    let (mut looked_at, mut circles) = (0, vec![]);
    for root in crates() {
        for folder in folders(&root) {
            let graph = uses(&root, &folder);
            looked_at += graph.values().map(BTreeSet::len).sum::<usize>();
            circles.extend(
                circle(&graph).map(|parts| format!("{}: {}", folder.display(), parts.join(" uses "))),
            );
        }
    }
    assert_eq!(circles, [""; 0]);
    assert!(looked_at > 200, "{looked_at} uses were found, which can't be all");
}

#[test]
fn the_rooms_keep_the_order_that_is_told() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let told = fs::read_to_string(root.join("lib.rs")).unwrap();
    let order: Vec<String> = told
        .lines()
        .filter_map(|line| Some(line.strip_prefix("//! * [`")?.split_once('`')?.0.to_owned()))
        .collect();
    let graph = uses(&root, &root);
    assert_eq!(order.iter().collect::<BTreeSet<_>>(), graph.keys().collect(), "every room is in the list");
    assert_eq!(ways_back(&graph, &order), [""; 0]);
    // And one would be seen.
    let turned: Vec<String> = order.iter().rev().cloned().collect();
    assert!(ways_back(&graph, &turned).contains(&"kernel uses spec".to_owned()));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        cni_harness::write_file(&path, text, 0o644);
    };
    write("lib.rs", "pub mod a;\npub mod b;\npub mod c;\nmod d;\npub use d::Passed;\n");
    write("a.rs", "use crate::{b::Thing, c};\n");
    write("b.rs", "// crate::a\nfn f() {}\n#[cfg(test)]\nmod tests { use crate::a; }\n");
    write("c/mod.rs", "use crate::b;\npub mod deep;\n");
    write("c/deep.rs", "");
    write("d.rs", "use super::b;\n");
    let look = || circle(&uses(dir.path(), dir.path()));
    assert_eq!(look(), None, "tests and comments are no uses");
    for (file, text) in [
        ("b.rs", "fn f() { crate::a::g() }\n"),
        ("c/deep.rs", "use crate::{\n    x,\n    a::{Y, Z},\n};\n"),
        ("b.rs", "use super::a;\n"),
        ("b.rs", "use crate::Passed;\n"),
    ] {
        let before = fs::read_to_string(dir.path().join(file)).unwrap();
        write(file, text);
        assert!(look().is_some(), "{file}: {text}");
        write(file, &before);
    }
}
