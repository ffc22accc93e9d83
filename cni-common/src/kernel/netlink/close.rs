//! Netfilter sockets are closed when a call is over, all at once.
//!
//! When one is closed, the kernel finishes there and then what nf_tables have begun to delete: it waits for RCU, some ten
//! milliseconds, while nobody else can change nf_tables. Whoever closes his socket later, after other waits of his, finds
//! that done. So within [`late`] each socket is held by a second file descriptor.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}

/// So many are held; a call that opens more closes them as it goes.
const MOST: usize = 16;

/// Does `work`, and closes the netfilter sockets that this thread opened meanwhile when the outermost `work` is done,
/// however that ends.
pub fn late<T>(work: impl FnOnce() -> T) -> T {
    struct Level;
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
            if DEPTH.get() == 0 {
                HELD.take();
            }
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _level = Level;
    work()
}

/// Holds an open socket until the outermost [`late`] is done; without one, not at all.
pub(super) fn hold(socket: &impl AsFd) {
    if DEPTH.get() == 0 {
        return;
    }
    HELD.with_borrow_mut(|held| {
        // One that can't be held is closed early, which costs time and nothing else.
        if held.len() < MOST {
            held.extend(rustix::io::fcntl_dupfd_cloexec(socket, 0));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{HELD, hold, late};

    #[test]
    fn sockets_are_held_until_the_outermost_is_done() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let held = || HELD.with_borrow(Vec::len);
        hold(&file);
        assert_eq!(held(), 0);
        late(|| {
            late(|| hold(&file));
            assert_eq!(held(), 1);
            let panicked = std::panic::catch_unwind(|| late(|| panic!("on purpose")));
            assert!(panicked.is_err());
            assert_eq!(held(), 1);
            (0..40).for_each(|_| hold(&file));
            assert_eq!(held(), super::MOST);
        });
        assert_eq!(held(), 0);
    }
}
