//! Errors as the specification wants them: a code that a runtime understands, a message that a person understands.

use super::version::SpecVersion;
use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error code (SPEC.md, "Error").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// The config's `cniVersion` is not one of ours, or does not have this command.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A key of the config asks for something that we do not do.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// A `CNI_*` variable is missing or wrong.
    pub const BAD_ENVIRONMENT: Self = Self(4);
    /// Reading, writing, or the kernel failed.
    pub const IO: Self = Self(5);
    /// Not JSON, or a value of the wrong type.
    pub const DECODE: Self = Self(6);
    /// The config is well-formed but wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is the plugin's own namespace (the reference library's code; not in the specification).
    pub const INVALID_NETNS: Self = Self(8);
    /// The same call may succeed later.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: no ADD can succeed now.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: not available, and containers that are attached may be reached in part only.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// CHECK: something is not as ADD left it (100 and up are each plugin's own to give).
    pub const NOT_AS_ADDED: Self = Self(100);
    /// ADD: the attachment exists already.
    pub const ALREADY_ADDED: Self = Self(101);
    /// Our own bug.
    pub const INTERNAL: Self = Self(999);
}

/// Why a call failed.
#[derive(Debug)]
pub struct Error {
    /// What a runtime reads.
    pub code: Code,
    cause: anyhow::Error,
}

impl Error {
    /// CHECK's answer (code 100): something is not as ADD left it.
    #[must_use]
    pub fn differs(what: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::new(Code::NOT_AS_ADDED, format!("{what}: expected {expected}, found {found}"))
    }

    /// An error that says `msg`.
    pub fn new(code: Code, msg: impl fmt::Display) -> Self {
        Self { code, cause: anyhow!("{msg}") }
    }

    /// A config error (code 7).
    pub fn config(msg: impl fmt::Display) -> Self {
        Self::new(Code::INVALID_CONFIG, msg)
    }

    /// The same error with `details` as its cause.
    #[must_use]
    pub fn details(self, details: impl fmt::Display) -> Self {
        let msg = self.msg();
        Self { code: self.code, cause: anyhow!("{details}").context(msg) }
    }

    /// The same error with `msg` in front: what was being done when it happened.
    #[must_use]
    pub fn context(self, msg: impl fmt::Display) -> Self {
        Self { code: self.code, cause: self.cause.context(msg.to_string()) }
    }

    /// The sentence in front.
    #[must_use]
    pub fn msg(&self) -> String {
        self.cause.to_string()
    }

    /// The causes behind it, joined by `: `; empty when there are none.
    #[must_use]
    pub fn cause(&self) -> String {
        self.cause.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// The error object that goes to stdout.
    #[must_use]
    pub fn to_json(&self, version: SpecVersion) -> String {
        let wire = Wire {
            cni_version: version.to_string(),
            code: self.code.0,
            msg: bounded(self.msg()),
            details: bounded(self.cause()),
        };
        super::print::to_text(&wire)
    }

    /// Reads what a delegate printed when it failed; `None` when that is not an error object.
    #[must_use]
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(text).ok()?;
        let error = Self::new(Code(wire.code), wire.msg);
        Some(if wire.details.is_empty() { error } else { error.details(wire.details) })
    }
}

/// A value of a megabyte, repeated in a message, helps nobody and drowns the runtime's log.
fn bounded(mut text: String) -> String {
    const MAX: usize = 2048;
    if text.len() > MAX {
        let end = (0..=MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#} (code {})", self.cause, self.code.0)
    }
}

impl std::error::Error for Error {}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    cni_version: String,
    code: u32,
    msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    details: String,
}

/// Gives any error a CNI code and the sentence that says what was being done.
pub trait Coded<T> {
    /// `self`, its error behind `msg`, with `code`.
    fn coded(self, code: Code, msg: impl fmt::Display) -> Result<T>;

    /// As [`Coded::coded`] with [`Code::IO`].
    fn io(self, msg: impl fmt::Display) -> Result<T>
    where
        Self: Sized,
    {
        self.coded(Code::IO, msg)
    }
}

impl<T, E: std::error::Error + Send + Sync + 'static> Coded<T> for std::result::Result<T, E> {
    fn coded(self, code: Code, msg: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error { code, cause: anyhow::Error::new(error).context(msg.to_string()) })
    }
}

/// Where a text names a version, and what is told when it names none.
impl SpecVersion {
    /// The version that `text` names exactly; the empty text means 0.1.0.
    ///
    /// # Errors
    /// Code 1 when no release has that name (`1.0` is none).
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| Self::incompatible(text, Self::ALL))
    }

    /// The error (code 1) for a config whose version `text` is none of `known`.
    pub fn incompatible(text: &str, known: impl IntoIterator<Item = Self>) -> Error {
        let known: Vec<_> = known.into_iter().map(|version| format!("\"{version}\"")).collect();
        Error::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .details(format!("config is {text:?}, plugin supports [{}]", known.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_object_carries_version_code_message_and_causes() {
        let lost = std::io::Error::from_raw_os_error(2);
        let error = Err::<(), _>(lost).io("read /etc/resolv.conf").unwrap_err();
        let json: serde_json::Value = serde_json::from_str(&error.to_json(SpecVersion::V1_1_0)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"cniVersion": "1.1.0", "code": 5, "msg": "read /etc/resolv.conf",
                "details": "No such file or directory (os error 2)"})
        );
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = Error::config("ä".repeat(5000)).details("x".repeat(5000)).to_json(SpecVersion::V1_1_0);
        assert!(text.len() < 5000 && text.contains("ä…") && text.contains("x…"), "{}", text.len());
    }

    #[test]
    fn a_delegates_error_keeps_code_message_and_details() {
        let text = br#"{"code": 11, "msg": "busy", "details": "try later"}"#;
        let error = Error::from_json(text).unwrap();
        assert_eq!((error.code, error.msg(), error.cause()), (Code(11), "busy".into(), "try later".into()));
        for not_an_error in ["", "null", "{}", "[1]", r#"{"code":"x","msg":"y"}"#] {
            assert!(Error::from_json(not_an_error.as_bytes()).is_none(), "{not_an_error}");
        }
    }
}
