//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.

use crate::spec::{Code, Error, Result};

/// The value of `wanted` in `text`, if it has one.
///
/// # Errors
/// Code 4: a piece that is not one `KEY=VALUE`; a key that is neither `wanted` nor `IgnoreUnknown`, unless
/// `IgnoreUnknown` is set anywhere in the list (which every Kubernetes runtime does).
pub fn find(text: &str, wanted: &str) -> Result<Option<String>> {
    let mut found = None;
    let mut ignore = false;
    let mut unknown = Vec::new();
    for piece in text.split(';').filter(|_| !text.is_empty()) {
        let pair: Vec<_> = piece.split('=').collect();
        match pair[..] {
            [key, value] if key == wanted => found = Some(value.to_owned()),
            ["IgnoreUnknown", value] => {
                ignore = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => {
                        let msg =
                            format!("ARGS: error parsing value of pair {piece:?}: want 1, true, 0 or false");
                        return Err(bad(text, msg));
                    }
                };
            }
            [_, _] => unknown.push(format!("{piece:?}")),
            _ => return Err(invalid(text, piece)),
        }
    }
    if !unknown.is_empty() && !ignore {
        let msg = format!(
            "ARGS: unknown args [{}]; known here: {wanted}; IgnoreUnknown=1 passes others",
            unknown.join(" ")
        );
        return Err(bad(text, msg));
    }
    Ok(found.filter(|value| !value.is_empty()))
}

/// All pairs of `text`, in order.
///
/// # Errors
/// Code 4: a piece that is not one `KEY=VALUE`.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |piece: &str| match piece.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(invalid(text, piece)),
    };
    text.split(';').filter(|_| !text.is_empty()).map(pair).collect()
}

fn bad(text: &str, msg: String) -> Error {
    Error::new(Code::BAD_ENVIRONMENT, msg).details(format!("CNI_ARGS is {text:.200?}"))
}

fn invalid(text: &str, piece: &str) -> Error {
    bad(text, format!("ARGS: invalid pair {piece:?}; want KEY=VALUE, parted by ;"))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn pairs_are_found_and_strangers_refused_unless_ignored() {
        for (text, want) in [
            ("", Ok(None)),
            ("MAC=02:00:00:00:00:01", Ok(Some("02:00:00:00:00:01"))),
            ("MAC=", Ok(None)),
            ("IgnoreUnknown=1;K8S_POD_NAME=x;MAC=a", Ok(Some("a"))),
            ("K8S_POD_NAME=x;IgnoreUnknown=TRUE", Ok(None)),
            ("MAC=a;MAC=b", Ok(Some("b"))),
            ("mac=a", Err("unknown args [\"mac=a\"]")),
            ("MAC=a;", Err("invalid pair \"\"")),
            ("MAC", Err("invalid pair \"MAC\"")),
            ("MAC=a=b", Err("invalid pair")),
            ("IgnoreUnknown=yes", Err("error parsing value")),
            ("IgnoreUnknown=0;A=b", Err("unknown args")),
        ] {
            match (find(text, "MAC"), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.as_deref(), want, "{text}"),
                (Err(got), Err(want)) => {
                    assert_eq!(got.code.0, 4, "{text}");
                    assert!(got.msg().contains(want), "{text} → {got}");
                }
                (got, want) => panic!("{text}: got {got:?}, want {want:?}"),
            }
        }
    }
}
