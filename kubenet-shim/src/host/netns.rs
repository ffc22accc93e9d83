//! Where a container's network namespace is: the runtime that made it knows.

use cni_common::process;
use cni_common::spec::{Code, ContainerId, Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a runtime may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to ask, and how to read the answer.
type Runtime = (&'static str, &'static [&'static str], fn(&str) -> Option<String>);

const RUNTIMES: [Runtime; 3] = [
    ("docker", &["inspect", "--format", "{{.State.Pid}}"], of_pid),
    ("podman", &["inspect", "--format", "{{.State.Pid}}"], of_pid),
    ("crictl", &["inspectp", "--output", "json"], of_sandbox),
];

/// The path of the network namespace of a container: what `command` says, else the first runtime that knows it.
///
/// # Errors
/// Code 5 when nobody knows: what each answered.
pub fn of_container(command: Option<&Path>, id: &ContainerId) -> Result<String> {
    if let Some(command) = command {
        return ask(command, &[], id).and_then(|answer| {
            let told = answer.trim();
            of_pid(told).or_else(|| told.starts_with('/').then(|| told.to_owned())).ok_or_else(|| {
                Error::new(Code::IO, format!("{} said {told:.80?}", command.display()))
                    .details("want the path of a network namespace, or a process ID")
            })
        });
    }
    let mut answers = Vec::new();
    for (program, words, read) in RUNTIMES {
        let Some(path) = in_path(program) else { continue };
        match ask(&path, words, id) {
            Ok(answer) => match read(&answer) {
                Some(netns) => return Ok(netns),
                None => answers.push(format!("{program}: it does not run")),
            },
            Err(error) => answers.push(format!("{program}: {}", error.cause())),
        }
    }
    let known = if answers.is_empty() {
        "neither docker, podman nor crictl is here".to_owned()
    } else {
        answers.join("; ")
    };
    Err(Error::new(Code::IO, format!("the network namespace of container {id} is not known")).details(known))
}

/// Container engines live anywhere, so this is the caller's word; never for a folder that depends on where the caller stands.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn ask(program: &Path, words: &[&str], id: &ContainerId) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).arg(id.as_str());
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let output = process::run(command, &[], PATIENCE)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(Code::IO, format!("{name} does not know container {id}")).details(format!("{why:.300}")))
}

/// Of a process that lives.
fn of_pid(text: &str) -> Option<String> {
    let pid: u32 = text.trim().parse().ok().filter(|pid| *pid != 0)?;
    Some(format!("/proc/{pid}/ns/net"))
}

/// What crictl says of a sandbox.
fn of_sandbox(text: &str) -> Option<String> {
    let told: Value = serde_json::from_str(text).ok()?;
    let spaces = told["info"]["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = spaces.into_iter().flatten().find(|one| one["type"] == "network");
    let path =
        network.and_then(|one| one["path"].as_str()).filter(|path| !path.is_empty()).map(ToOwned::to_owned);
    path.or_else(|| of_pid(&told["info"]["pid"].to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_runtimes() {
        assert_eq!(of_pid("123\n").as_deref(), Some("/proc/123/ns/net"));
        assert_eq!((of_pid("0"), of_pid("x"), of_pid("")), (None, None, None));
        let path = r#"{"info":{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}}}"#;
        assert_eq!(of_sandbox(path).as_deref(), Some("/run/netns/x"));
        assert_eq!(of_sandbox(r#"{"info":{"pid":7}}"#).as_deref(), Some("/proc/7/ns/net"));
        assert_eq!((of_sandbox("{}"), of_sandbox("")), (None, None));
    }
}
