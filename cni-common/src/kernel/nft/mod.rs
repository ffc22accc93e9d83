//! nf_tables over netlink: typed objects, atomic transactions, no `nft` binary.
//!
//! A [`Transaction`] is a list of changes that the kernel makes all together or not at all. Objects that it makes
//! ([`Object`]) say in [`object`] what they are. Elements of a set carry their owner's tag, in the form that
//! `nft list ruleset` prints as a comment.

mod comment;
pub(in crate::kernel) mod element_list;
mod elements;
mod object;
mod read;
mod transaction;

pub use elements::{Element, Key, Value};
pub use object::{Chain, Data, End, Family, Field, Hook, Match, Rule, Set, Verdict};
pub use read::{
    available, chains, elements, find_element, has_chain, has_set, rules, unavailable_ok, uses, uses_of_table,
};
pub use transaction::{Transaction, delete_chain, delete_unused_table};
