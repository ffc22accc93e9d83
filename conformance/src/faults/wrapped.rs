//! A folder of plugins that stand for those of another: one can be told what befalls it.

use cni_harness::faults::{Counter, Point, STRACE};
use cni_harness::write_file;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long what a killed plugin started may go on without it.
const ORPHANS: Duration = Duration::from_secs(30);

/// A process of an operation: the how-manieth run of a plugin in it, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The plugin's name.
    pub plugin: String,
    /// Its run.
    pub run: usize,
}

/// The folder. Each plugin is a script that starts the real one, through strace if that is wanted. Where the real ones
/// are one executable, which calls its delegates inside, they still do: a fault befalls the caller's process.
pub struct Wrapped {
    dir: PathBuf,
    real: PathBuf,
    names: Vec<String>,
    /// The line of a script that lets plugins call each other inside; empty where they don't.
    inside: String,
    /// Who runs a plugin of ours holds the other end.
    alive: File,
}

impl Wrapped {
    /// Stands for the plugins `names` in `real`, with everything below `dir`, which is there.
    ///
    /// # Errors
    /// What the file system says; a path that a script can't hold.
    pub fn new(real: &Path, names: &[String], dir: &Path) -> io::Result<Self> {
        if [real, dir].iter().any(|path| path.to_string_lossy().contains('\'')) {
            return Err(io::Error::other(format!("{}: ' in its name", real.display())));
        }
        for folder in ["bin", "runs", "traces"] {
            fs::create_dir(dir.join(folder))?;
        }
        let fifo = dir.join("alive");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let alive = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo)?;
        let inside = if is_one_file(real, names) {
            format!("export CNI_PATH='{}'\n", real.display())
        } else {
            String::new()
        };
        let wrapped =
            Self { dir: dir.to_owned(), real: real.to_owned(), names: names.to_vec(), inside, alive };
        wrapped.leave_alone();
        Ok(wrapped)
    }

    /// What `CNI_PATH` is to be.
    pub fn path(&self) -> PathBuf {
        self.dir.join("bin")
    }

    fn write(&self, name: &str, how: &str) {
        let (dir, real) = (self.dir.display(), self.real.display());
        let script = format!(
            "#!/bin/sh\nexec 9>'{dir}/alive' 2>>'{dir}/stderr'\n{}{how}\nexec '{real}/{name}'\n",
            self.inside
        );
        write_file(&self.path().join(name), script, 0o700);
    }

    /// Counts the runs of `name`, and does `how` in those where that says so.
    fn write_counting(&self, name: &str, how: &str) {
        let dir = self.dir.display();
        let count =
            format!("n=1\nwhile ! (set -C; : >'{dir}/runs/{name}.'$n) 2>/dev/null; do n=$((n + 1)); done");
        self.write(name, &format!("{count}\n{how}"));
    }

    /// From now on nothing befalls anybody.
    pub fn leave_alone(&self) {
        for name in &self.names {
            self.write(name, "");
        }
    }

    /// From now on each system call of each plugin is written down.
    pub fn record(&self) {
        self.forget("runs");
        self.forget("traces");
        for name in &self.names {
            let (dir, real) = (self.dir.display(), self.real.display());
            self.write_counting(
                name,
                &format!("exec {STRACE} -f -qq -b execve -o '{dir}/traces/{name}.'$n '{real}/{name}'"),
            );
        }
    }

    /// From now on `what` (`signal=SIGKILL`, `error=EIO`) befalls that process at that point, and nobody else.
    pub fn arm(&self, process: &Process, point: &Point, what: &str) {
        self.forget("runs");
        self.forget("traces");
        let (dir, real, Process { plugin, run }) = (self.dir.display(), self.real.display(), process);
        let (name, nth) = (&point.name, point.nth);
        let inject = format!(
            "exec {STRACE} -f -qq -b execve -o '{dir}/traces/fault' -e trace={name} -e inject={name}:{what}:when={nth} '{real}/{plugin}'"
        );
        self.write_counting(plugin, &format!("[ $n != {run} ] || {inject}"));
    }

    /// Whether what [`Self::arm`] prepared has happened.
    pub fn has_happened(&self) -> bool {
        let trace = fs::read_to_string(self.dir.join("traces/fault")).unwrap_or_default();
        trace.contains("(INJECTED)") || trace.contains("killed by SIGKILL")
    }

    /// Waits until all that was started has ended, also what a killed plugin started.
    ///
    /// # Errors
    /// When it does not end.
    pub fn settle(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match (&self.alive).read(&mut [0; 1]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return Err(format!("wait for plugins to end: {other:?}")),
            }
            if begun.elapsed() > ORPHANS {
                return Err(format!("something that a plugin started still runs after {ORPHANS:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What plugins wrote to stderr since the last look.
    pub fn stderr(&self) -> String {
        let file = self.dir.join("stderr");
        let text = fs::read(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The points of each process that ran since [`Self::record`], by plugin.
    ///
    /// # Errors
    /// What the file system says.
    pub fn points(&self) -> io::Result<Vec<(Process, Vec<Point>)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(self.dir.join("traces"))?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let Some((plugin, run)) =
                name.rsplit_once('.').and_then(|(plugin, run)| Some((plugin, run.parse().ok()?)))
            else {
                continue;
            };
            let trace = fs::read_to_string(file.path())?;
            found.push((Process { plugin: plugin.to_owned(), run }, points_of(&trace)));
        }
        found.sort_by(|(one, _), (other, _)| (&one.plugin, one.run).cmp(&(&other.plugin, other.run)));
        Ok(found)
    }

    fn forget(&self, folder: &str) {
        let folder = self.dir.join(folder);
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Whether all of these plugins are links of one file.
fn is_one_file(dir: &Path, names: &[String]) -> bool {
    let file = |name: &String| fs::metadata(dir.join(name)).ok().map(|found| (found.dev(), found.ino()));
    names.first().is_some_and(|first| names.iter().all(|name| file(name) == file(first)))
}

/// strace counts for each thread by itself, and so does this: one point for what several threads reach.
fn points_of(trace: &str) -> Vec<Point> {
    let mut counters: HashMap<&str, Counter> = HashMap::new();
    let mut points: Vec<Point> = Vec::new();
    let mut ours = false;
    // The first is the program's own start.
    for line in trace.lines().skip(1) {
        let thread = line.split(' ').next().unwrap_or_default();
        let Some(mut point) = counters.entry(thread).or_default().point(line) else { continue };
        ours |= point.ours;
        point.ours = ours;
        let known = points.iter().any(|known| known.name == point.name && known.nth == point.nth);
        if !known {
            points.push(point);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_a_childs_start_is_known() {
        let trace = "7 execve(\"x\", [\"x\"], 0x1 /* 3 vars */) = 0\n7 recvfrom(1, \"\", 8, 0, NULL, NULL) = 0\n\
                     7 socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0, [14, 15]) = 0\n\
                     7 recvfrom(14,  <unfinished ...>\n7 close(14) = 0\n7 recvfrom(14, \"\", 8, 0, NULL, NULL) = 0\n";
        let waits: Vec<bool> = points_of(trace)
            .into_iter()
            .filter(|point| point.name == "recvfrom")
            .map(|point| point.awaits_exec)
            .collect();
        assert_eq!(waits, [false, true, false]);
    }

    #[test]
    fn each_thread_counts_by_itself() {
        let trace = "7 execve(\"x\", [\"x\"], 0x1 /* 3 vars */) = 0\n7 read(3, \"\", 1) = 0\n7 read(0, \"{}\", 2) = 2\n8 read(3 <unfinished ...>\n\
                     8 <... read resumed>, \"\", 1) = 0\n8 --- SIGURG ---\n8 read(3, \"\", 1) = 0\n8 read(3, \"\", 1) = 0\n8 execve(\"y\", [\"y\"], 0x1 /* 3 vars */) = 0\n\
                     7 +++ exited with 0 +++\n";
        let points: Vec<_> =
            points_of(trace).into_iter().map(|point| (point.name, point.nth, point.ours)).collect();
        let read = |nth, ours| ("read".to_owned(), nth, ours);
        let start_of_other = ("execve".to_owned(), 1, true);
        assert_eq!(points, [read(1, false), read(2, true), read(3, true), start_of_other]);
    }
}
