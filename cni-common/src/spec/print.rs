//! JSON as it is written.

use serde::Serialize;

/// `value` as stdout gets it: four spaces of indent, no closing newline.
#[must_use]
pub fn to_text(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    // The types we print hold only strings, numbers, lists and structs: none of them can fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&text).into_owned()
}

/// `value` in one line.
#[must_use]
pub fn compact(value: &impl Serialize) -> String {
    // As above.
    serde_json::to_string(value).unwrap_or_default()
}
