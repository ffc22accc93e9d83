//! What a network's folder holds: which addresses are leased, and to whom. Answers in a few steps however many there are,
//! from two sorted tables ([`Tables`]) and the few changes since they were made.

use crate::record::{Change, HolderHash, Record, address, key};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// All leases twice: in the order of their addresses, and in that of their holders' hashes.
pub trait Tables {
    /// How many leases there are.
    fn count(&self) -> usize;

    /// The lease at this place in the order of addresses; `at` is less than [`Tables::count`].
    ///
    /// # Errors
    /// When the table can't be read.
    fn by_address(&self, at: usize) -> io::Result<Record>;

    /// The lease at this place in the order of holders; `at` is less than [`Tables::count`].
    ///
    /// # Errors
    /// When the table can't be read.
    fn by_holder(&self, at: usize) -> io::Result<Record>;

    /// Every lease, in the order of addresses.
    ///
    /// # Errors
    /// When the table can't be read; `InvalidData` when it has another order.
    fn all(&self) -> io::Result<Vec<Record>>;
}

/// Both tables in memory, each address once.
#[derive(Debug, Default)]
pub struct Sorted {
    addresses: Vec<Record>,
    holders: Vec<Record>,
}

impl Sorted {
    /// Sorts the leases. Of two of one address, one stands.
    #[must_use]
    pub fn new(mut leases: Vec<Record>) -> Self {
        leases.sort_unstable();
        leases.dedup_by_key(|(key, _)| *key);
        let addresses = leases.clone();
        leases.sort_unstable_by_key(|(key, holder)| (*holder, *key));
        Self { addresses, holders: leases }
    }

    /// The two tables.
    #[must_use]
    pub fn tables(&self) -> [&[Record]; 2] {
        [&self.addresses, &self.holders]
    }
}

fn at_place(table: &[Record], at: usize) -> io::Result<Record> {
    table.get(at).copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl Tables for Sorted {
    fn count(&self) -> usize {
        self.addresses.len()
    }

    fn by_address(&self, at: usize) -> io::Result<Record> {
        at_place(&self.addresses, at)
    }

    fn by_holder(&self, at: usize) -> io::Result<Record> {
        at_place(&self.holders, at)
    }

    fn all(&self) -> io::Result<Vec<Record>> {
        Ok(self.addresses.clone())
    }
}

/// The first place from `from` to `to` where `is_before` no longer holds.
fn partition(from: usize, to: usize, is_before: impl Fn(usize) -> io::Result<bool>) -> io::Result<usize> {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The leases of a network.
pub struct Contents {
    tables: Box<dyn Tables>,
    /// What has changed since the tables were made: the last change of each address.
    changes: BTreeMap<u128, HolderHash>,
}

impl Contents {
    /// From tables and the changes since, oldest first.
    #[must_use]
    pub fn new(tables: Box<dyn Tables>, changes: &[Change]) -> Self {
        Self { tables, changes: changes.iter().map(|change| (key(change.ip), change.holder)).collect() }
    }

    /// Notes that `ip` is leased.
    pub fn insert(&mut self, ip: IpAddr, holder: HolderHash) {
        self.changes.insert(key(ip), holder);
    }

    /// Notes that `ip` is free.
    pub fn remove(&mut self, ip: IpAddr) {
        self.changes.insert(key(ip), HolderHash::FREED);
    }

    fn place(&self, key: u128) -> io::Result<usize> {
        partition(0, self.tables.count(), |at| Ok(self.tables.by_address(at)?.0 < key))
    }

    fn in_tables(&self, key: u128) -> io::Result<bool> {
        let at = self.place(key)?;
        Ok(at < self.tables.count() && self.tables.by_address(at)?.0 == key)
    }

    /// Whether `ip` is leased.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub fn contains(&self, ip: IpAddr) -> io::Result<bool> {
        match self.changes.get(&key(ip)) {
            Some(holder) => Ok(!holder.is_freed()),
            None => self.in_tables(key(ip)),
        }
    }

    /// How many of the addresses from `start` to `end` are leased.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub fn count(&self, start: IpAddr, end: IpAddr) -> io::Result<usize> {
        let (start, end) = (key(start), key(end));
        let mut count = match end.checked_add(1) {
            Some(behind) => self.place(behind)?,
            None => self.tables.count(),
        } - self.place(start)?;
        for (key, holder) in self.changes.range(start..=end) {
            match (self.in_tables(*key)?, holder.is_freed()) {
                (true, true) => count -= 1,
                (false, false) => count += 1,
                _ => {}
            }
        }
        Ok(count)
    }

    /// The first address from `start` to `end` that is neither leased nor `except`.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub fn first_free(&self, start: IpAddr, end: IpAddr, except: IpAddr) -> io::Result<Option<IpAddr>> {
        let (mut wanted, end) = (key(start), key(end));
        while wanted <= end {
            // Free by the tables, or freed since: whichever comes first.
            let gap = self.gap(wanted)?;
            let freed =
                self.changes.range(wanted..=end).find(|(_, holder)| holder.is_freed()).map(|(key, _)| *key);
            let Some(free) = [gap, freed].into_iter().flatten().min().filter(|free| *free <= end) else {
                return Ok(None);
            };
            let leased_since = self.changes.get(&free).is_some_and(|holder| !holder.is_freed());
            if !leased_since && free != key(except) {
                return Ok(Some(address(free)));
            }
            let Some(next) = free.checked_add(1) else { return Ok(None) };
            wanted = next;
        }
        Ok(None)
    }

    /// The first number from `wanted` on that is not in the tables.
    fn gap(&self, wanted: u128) -> io::Result<Option<u128>> {
        let start = self.place(wanted)?;
        // As long as nothing is missing, places and numbers grow alike.
        let steps = |at: usize| wanted.checked_add((at - start) as u128);
        let end =
            partition(start, self.tables.count(), |at| Ok(Some(self.tables.by_address(at)?.0) == steps(at)))?;
        Ok(steps(end))
    }

    /// The addresses whose holder is one of these.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub fn held_by(&self, holders: [HolderHash; 2]) -> io::Result<Vec<IpAddr>> {
        let mut keys = Vec::new();
        for holder in holders {
            let mut at = partition(0, self.tables.count(), |at| Ok(self.tables.by_holder(at)?.1 < holder))?;
            while at < self.tables.count() {
                let record = self.tables.by_holder(at)?;
                if record.1 != holder {
                    break;
                }
                keys.extend((!self.changes.contains_key(&record.0)).then_some(record.0));
                at += 1;
            }
        }
        keys.extend(self.changes.iter().filter(|(_, holder)| holders.contains(holder)).map(|(key, _)| *key));
        Ok(keys.into_iter().map(address).collect())
    }

    /// Everything, sorted anew.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub fn sorted(&self) -> io::Result<Sorted> {
        let mut leases = self.tables.all()?;
        leases.retain(|(key, _)| !self.changes.contains_key(key));
        leases.extend(
            self.changes.iter().filter(|(_, holder)| !holder.is_freed()).map(|(key, holder)| (*key, *holder)),
        );
        Ok(Sorted::new(leases))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn gaps_are_found_to_the_very_ends() {
        let holder = HolderHash::container("x");
        let all = ["255.255.255.254", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"];
        let in_tables =
            Contents::new(Box::new(Sorted::new(all.map(|text| (key(ip(text)), holder)).to_vec())), &[]);
        let mut in_changes = Contents::new(Box::new(Sorted::default()), &[]);
        for text in &all {
            in_changes.insert(ip(text), holder);
        }
        let none = ip("192.168.0.1");
        for contents in [in_tables, in_changes] {
            let free = |start, end, except| contents.first_free(ip(start), ip(end), except).unwrap();
            assert_eq!(free("0.0.0.0", "0.0.0.1", ip("0.0.0.0")), Some(ip("0.0.0.1")));
            assert_eq!(free("255.255.255.254", "255.255.255.255", none), None);
            assert_eq!(free("::", "::1", none), Some(ip("::1")));
            assert_eq!(free(all[3], all[3], none), None);
            assert_eq!(contents.count(ip("::"), ip(all[3])).unwrap(), 4);
            assert!(!contents.contains(ip("::ff:ff")).unwrap());
        }
    }

    proptest! {
        /// Tables and changes together answer as a plain map does.
        #[test]
        fn it_answers_as_a_plain_map_does(
            before in prop::collection::btree_map(0u32..60, 2u64..6, 0..50),
            changes in prop::collection::vec((0u32..60, 0u64..6), 0..40),
            (start, len, except) in (0u32..60, 0u32..60, 0u32..60),
        ) {
            let v4 = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n));
            let hash = |n: u64| match n { 0 | 1 => HolderHash::FREED, n => HolderHash::container(&n.to_string()) };
            let tables = before.iter().map(|(n, holder)| (key(v4(*n)), hash(*holder))).collect();
            let log: Vec<Change> = changes.iter().map(|(n, h)| Change { ip: v4(*n), holder: hash(*h) }).collect();
            let contents = Contents::new(Box::new(Sorted::new(tables)), &log);
            let mut model: BTreeMap<u32, HolderHash> = before.iter().map(|(n, holder)| (*n, hash(*holder))).collect();
            for (n, holder) in &changes {
                if *holder < 2 { model.remove(n); } else { model.insert(*n, hash(*holder)); }
            }
            let end = (start + len).min(70);
            for n in 0..70 {
                prop_assert_eq!(contents.contains(v4(n)).unwrap(), model.contains_key(&n));
            }
            prop_assert_eq!(contents.count(v4(start), v4(end)).unwrap(), model.range(start..=end).count());
            let free = (start..=end).find(|n| !model.contains_key(n) && *n != except).map(v4);
            prop_assert_eq!(contents.first_free(v4(start), v4(end), v4(except)).unwrap(), free);
            for n in 2..6 {
                let mut held = contents.held_by([hash(n), HolderHash::container("none")]).unwrap();
                held.sort();
                let want: Vec<IpAddr> = model.iter().filter(|(_, h)| **h == hash(n)).map(|(n, _)| v4(*n)).collect();
                prop_assert_eq!(held, want);
            }
            let all: Vec<IpAddr> = contents.sorted().unwrap().tables()[0].iter().map(|(key, _)| address(*key)).collect();
            prop_assert_eq!(all, model.keys().map(|n| v4(*n)).collect::<Vec<_>>());
        }
    }
}
