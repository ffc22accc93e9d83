//! Input that nobody would write: what is right, changed at random, the same for the same seed.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

/// What one input may take before it counts as a hang.
const LIMIT: Duration = Duration::from_secs(10);
/// What an input may make a process hold, above what it holds anyway. Bytes.
pub const MEMORY: u64 = 64 << 20;

/// Numbers that look random (xorshift), the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed, any.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(if seed == 0 { 1 } else { seed })
    }

    /// From 0 to `sides` - 1; 0 when there are none.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or_default().checked_rem(sides).unwrap_or_default()
    }

    /// One of these, of which there is at least one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// Pieces of text that programs stumble over.
const PIECES: [&str; 24] = [
    "\0",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "../",
    "/",
    "\n",
    ";",
    "=",
    "%s",
    "é",
    "\u{202e}",
    "18446744073709551616",
    "-1",
    "1e400",
    "0.0.0.0/0",
];

/// One of `corpus`, changed in a few places.
///
/// # Panics
/// When the corpus is empty.
pub fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    for _ in 0..=dice.roll(4) {
        let (from, to) = (dice.roll(bytes.len() + 1), dice.roll(bytes.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match dice.roll(9) {
            0 if from < bytes.len() => bytes[from] ^= 1 << dice.roll(8),
            1 if from < bytes.len() => bytes[from] = *dice.pick(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'9']),
            2 => drop(bytes.splice(from..from, dice.pick(&PIECES).bytes())),
            3 => drop(bytes.splice(from..to.min(from + 16), [])),
            4 => bytes.truncate(from),
            5 => {
                let piece = bytes[from..to.min(from + 256)].to_vec();
                drop(bytes.splice(from..from, piece));
            }
            6 => {
                let other = dice.pick(corpus);
                let at = dice.roll(other.len() + 1);
                drop(bytes.splice(from.., other[at..].iter().copied()));
            }
            7 => {
                let piece = [*dice.pick(b"[{(\"9 ")].repeat(1 << dice.roll(14));
                drop(bytes.splice(from..from, piece));
            }
            _ => {
                let word = dice.pick(&[0_u32, 1, 4, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]).to_ne_bytes();
                let end = (from + 4).min(bytes.len());
                drop(bytes.splice(from..end, word));
            }
        }
    }
    bytes
}

/// `value` with a few of its parts replaced, taken away, or many times there.
pub fn mutate_json(dice: &mut Dice, value: &Value) -> Value {
    let mut value = value.clone();
    for _ in 0..=dice.roll(3) {
        let strange = strange(dice, &value);
        change(dice, &mut value, strange);
    }
    value
}

/// Changes one part, somewhere below.
fn change(dice: &mut Dice, part: &mut Value, strange: Value) {
    let deeper = dice.roll(4) > 0;
    match part {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = dice.roll(map.len());
            if let Some(below) = map.values_mut().nth(at) {
                change(dice, below, strange);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = dice.roll(list.len());
            change(dice, &mut list[at], strange);
        }
        Value::Object(map) if dice.roll(3) == 0 => {
            let gone = map.keys().nth(dice.roll(map.len())).cloned();
            gone.and_then(|key| map.remove(&key));
        }
        Value::Array(list) if dice.roll(2) == 0 => {
            let again = list.first().cloned();
            list.extend(again.into_iter().cycle().take(dice.roll(40)));
        }
        part => *part = strange,
    }
}

fn strange(dice: &mut Dice, whole: &Value) -> Value {
    let text = |dice: &mut Dice| {
        let pieces: Vec<&str> = (0..dice.roll(4)).map(|_| *dice.pick(&PIECES)).collect();
        pieces.concat()
    };
    match dice.roll(12) {
        0 => Value::Null,
        1 => json!(dice.roll(2) == 0),
        2 => json!(dice.pick(&[0_i64, 1, -1, 65_536, i64::from(u32::MAX), i64::MAX, i64::MIN])),
        3 => json!(u64::MAX),
        4 => json!(*dice.pick(&[0.5, -0.0, 1e300])),
        5 => json!("x".repeat(1 << dice.roll(17))),
        6 => json!([]),
        7 => json!({}),
        8 => whole.clone(),
        9 => json!(*dice.pick(&[
            "10.1.0.0/33",
            "::/0",
            "fd00::/127",
            "255.255.255.255",
            "::ffff:10.1.0.1/96",
            "00:00:00:00:00:00",
            "1.1.0",
            "host-local"
        ])),
        10 => Value::Object(Map::from_iter([(text(dice), json!(text(dice)))])),
        _ => json!(text(dice)),
    }
}

/// What an environment variable says, or else `default`.
///
/// # Panics
/// When it is no number.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
}

/// A seed: `name` says which, else it is the time.
#[must_use]
pub fn seed(name: &str) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    number(name, now.as_secs())
}

/// From now on this process may hold [`MEMORY`] more than it does, and so may each that it starts: who wants more is ended.
///
/// # Panics
/// When the limit can't be set.
pub fn limit_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB"));
    let kilobytes: u64 = data.and_then(|text| text.parse().ok()).unwrap_or_default();
    // Not RLIMIT_AS: what the C library reserves for each thread is no memory yet.
    let limit = getrlimit(Resource::RLIMIT_DATA)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_DATA, kilobytes * 1024 + MEMORY, most));
    assert!(limit.is_ok(), "limit memory: {limit:?}");
}

/// Tries `runs` inputs that `make` gives on `target`; a panic or a hang ends the test, and tells the input and the seed.
///
/// # Panics
/// Then.
pub fn fuzz<I: std::fmt::Debug>(
    name: &str,
    (runs, seed): (u64, u64),
    mut make: impl FnMut(&mut Dice) -> I,
    mut target: impl FnMut(&I),
) {
    let mut dice = Dice::new(seed);
    for run in 0..runs {
        let input = make(&mut dice);
        let begun = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let took = begun.elapsed();
        let why = match ended {
            Ok(()) if took < LIMIT => continue,
            Ok(()) => format!("took {took:?}"),
            Err(panic) => words(&*panic),
        };
        panic!("{name}, FUZZ_SEED={seed}, run {run}: {why}\ninput: {input:?}");
    }
    // Past what catches a test's output: it is to be seen how much was tried.
    let _ = writeln!(std::io::stderr(), "fuzz: {name}: {runs} inputs, seed {seed}");
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
