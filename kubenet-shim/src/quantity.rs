//! Kubernetes quantities, as annotations write limits: `10M`, `1.5Gi`, `2e6`.

use cni_common::spec::{Error, Result};

/// A quantity as a whole number, fractions rounded up.
///
/// # Errors
/// Code 7 when it is none, negative, or larger than 64 bits hold.
pub fn parse(text: &str) -> Result<u64> {
    let bad = || {
        Error::config(format!("{text:.80?} is no quantity"))
            .details("want a number such as 10M, 1.5Gi or 2e6")
    };
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(bad());
    }
    // Times a power of ten, so that fractions stay exact.
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let (multiplier, exponent) = scale(suffix).ok_or_else(bad)?;
    let exponent = exponent - i32::try_from(fraction.len()).map_err(|_| bad())?;
    let scaled = digits.checked_mul(multiplier).ok_or_else(bad)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs()).ok_or_else(bad)?;
    let value =
        if exponent < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power).ok_or_else(bad)? };
    u64::try_from(value).map_err(|_| bad())
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *power));
    }
    if let Some(at) = BINARY.iter().position(|name| *name == suffix) {
        return Some((1024u128.pow(u32::try_from(at).ok()? + 1), 0));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 36).then_some((1, exponent))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_kubernetes_takes() {
        for (text, want) in [
            ("0", 0),
            ("10M", 10_000_000),
            ("1Mi", 1_048_576),
            ("1.5k", 1500),
            ("1.5Gi", 1_610_612_736),
            ("2e6", 2_000_000),
            ("2E6", 2_000_000),
            ("1500m", 2),
            ("0.1", 1),
            (".5k", 500),
            ("12e-1", 2),
            ("1P", 1_000_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for text in [
            "",
            ".",
            "M",
            "-1",
            "1.2.3",
            "10 M",
            "10MB",
            "1e99",
            "18446744073709551616",
            "1e-99999999999",
            "1Zi",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
