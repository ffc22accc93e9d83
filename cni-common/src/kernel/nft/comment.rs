//! Comments as `nft` keeps them in an object's user data.

/// `NFTNL_UDATA_SET_ELEM_COMMENT` and, the same number, `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;

/// `text` as user data that `nft` prints as a comment: type, length, text, NUL. Longer text than fits is cut.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(253);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let len = u8::try_from(end + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, len];
    bytes.extend_from_slice(&text.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let (value, next) = rest.split_at_checked(usize::from(*len))?;
        if *kind == COMMENT {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        bytes = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{comment, read_comment};

    #[test]
    fn a_comment_is_read_back_and_a_long_one_is_cut_at_a_character() {
        assert_eq!(comment("hi"), [0, 3, b'h', b'i', 0]);
        assert_eq!(read_comment(&comment("cni/net/c1/eth0")).as_deref(), Some("cni/net/c1/eth0"));
        let long = "ä".repeat(200);
        assert_eq!(read_comment(&comment(&long)).as_deref(), Some("ä".repeat(126).as_str()));
        assert_eq!(read_comment(&[1, 1, 9, 0, 2, b'x', 0]).as_deref(), Some("x"));
        for torn in [&[][..], &[0], &[0, 9, b'x'], &[1, 1, 1]] {
            assert_eq!(read_comment(torn), None);
        }
    }
}
