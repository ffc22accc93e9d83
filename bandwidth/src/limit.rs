//! A limit, from bits to what the kernel counts in. Pure arithmetic, and everything that can be wrong with the numbers.

use cni_common::kernel::netlink::tc::Tbf;
use cni_common::spec::{Error, Result};
use std::fmt;

/// What comes in one second, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitsPerSecond(pub u64);

/// An amount of data, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits(pub u64);

/// A time, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub u32);

/// How long a packet waits at most, where the config does not say; the reference's number.
pub const DEFAULT_LATENCY: Milliseconds = Milliseconds(25);

/// The longest burst that the kernel holds: 32 bits of ticks of 64 ns, in whole microseconds.
const MAX_BURST_MICROS: u64 = 274_877_906;

/// The burst in bytes that is one too large; the reference's bound.
const TOO_LARGE_BYTES: u64 = u32::MAX as u64;

/// Which way, as the pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Who wrote the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An operator, into the config. A burst that is too long is an error.
    Config,
    /// The runtime, for one pod. Its burst is a fixed "as much as there is" (2^32 - 1 bits from containerd, eight times that from CRI-O), which
    /// no operator can change: one that is too long is cut.
    Runtime,
}

/// A limit in one direction, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Which one.
    pub direction: Direction,
    rate: BitsPerSecond,
    burst: Bits,
}

impl Limit {
    /// Checks a pair of numbers; both 0 is no limit.
    ///
    /// # Errors
    /// Code 7, with the number that would do.
    pub fn new(
        direction: Direction,
        source: Source,
        rate: BitsPerSecond,
        burst: Bits,
    ) -> Result<Option<Self>> {
        let mut limit = Self { direction, rate, burst };
        if rate.0 == 0 && burst.0 == 0 {
            return Ok(None);
        }
        limit.check_given()?;
        limit.check_small()?;
        let most = limit.longest_burst();
        if limit.burst_micros() > u128::from(MAX_BURST_MICROS) {
            if source == Source::Config {
                return Err(limit.too_long(most));
            }
            cni_common::log!(
                "{direction}Burst of {} bits is more than the kernel can count at {direction}Rate {}; {} bits are used",
                burst.0,
                rate.0,
                most.0
            );
            limit.burst = most;
        }
        Ok(Some(limit))
    }

    fn check_given(&self) -> Result<()> {
        let Self { direction, rate, burst } = self;
        if rate.0 == 0 {
            let details = format!("{direction}Burst is {} bits, {direction}Rate is missing or 0", burst.0);
            return Err(Error::config("if burst is set, rate must also be set").details(details));
        }
        if burst.0 == 0 {
            let details = format!(
                "{direction}Rate is {} bits a second, {direction}Burst is missing or 0; it is in bits, and a packet has to fit in",
                rate.0
            );
            return Err(Error::config("if rate is set, burst must also be set").details(details));
        }
        if burst.0 / 8 >= TOO_LARGE_BYTES {
            let details =
                format!("{direction}Burst is {} bits; the most is {}", burst.0, TOO_LARGE_BYTES * 8 - 1);
            return Err(Error::config("burst cannot be more than 4GB").details(details));
        }
        Ok(())
    }

    /// What the kernel would round to nothing.
    fn check_small(&self) -> Result<()> {
        let Self { direction, rate, burst } = self;
        if rate.0 < 8 {
            let msg = format!("{direction}Rate of {} is less than a byte a second", rate.0);
            return Err(Error::config(msg).details("it is in bits a second; the least is 8"));
        }
        if self.burst_micros() == 0 {
            let least = self.rate_bytes().div_ceil(1_000_000).max(1) * 8;
            let msg =
                format!("{direction}Burst of {} bits is too small for {direction}Rate {}", burst.0, rate.0);
            let details = format!("at this rate it takes less than a microsecond; the least is {least} bits");
            return Err(Error::config(msg).details(details));
        }
        Ok(())
    }

    fn too_long(&self, most: Bits) -> Error {
        let Self { direction, rate, burst } = self;
        let msg = format!("{direction}Burst of {} bits is too large for {direction}Rate {}", burst.0, rate.0);
        Error::config(msg).details(format!(
            "at this rate it takes {} s and the kernel counts up to {} s; the most is {} bits",
            self.burst_micros() / 1_000_000,
            MAX_BURST_MICROS / 1_000_000,
            most.0
        ))
    }

    /// The rate in bytes a second.
    const fn rate_bytes(&self) -> u64 {
        self.rate.0 / 8
    }

    /// The burst in bytes.
    #[must_use]
    pub const fn burst_bytes(&self) -> u64 {
        self.burst.0 / 8
    }

    /// How long the burst takes at this rate.
    fn burst_micros(&self) -> u128 {
        u128::from(self.burst_bytes()) * 1_000_000 / u128::from(self.rate_bytes().max(1))
    }

    /// The largest burst that takes no longer than the kernel can count.
    fn longest_burst(&self) -> Bits {
        let bytes = (u128::from(MAX_BURST_MICROS + 1) * u128::from(self.rate_bytes()) - 1) / 1_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(TOO_LARGE_BYTES - 1);
        Bits(bytes * 8 + 7)
    }

    /// The token bucket whose packets wait no longer than `latency`. Rounded as the reference does it, so that either's
    /// CHECK finds its numbers.
    #[must_use]
    pub fn bucket(&self, latency: Milliseconds) -> Tbf {
        let waiting = u128::from(self.rate_bytes()) * u128::from(latency.0) / 1000;
        let limit = waiting + u128::from(self.burst_bytes());
        // A tick is 64 ns.
        let ticks = self.burst_micros() * 125 / 8;
        Tbf {
            rate: self.rate_bytes(),
            // More than 4 GB do not wait anywhere.
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            buffer: u32::try_from(ticks).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Egress, Ingress};

    const FAST: u64 = 8_000_000_000_000;

    fn limit(source: Source, rate: u64, burst: u64) -> Result<Option<Limit>> {
        Limit::new(Ingress, source, BitsPerSecond(rate), Bits(burst))
    }

    #[test]
    fn the_references_numbers() {
        for (rate, burst, rate_bytes, limit_bytes, buffer) in [
            (8_000_000, 800_000, 1_000_000, 125_000, 1_562_500),
            (1_000_000, 80_000, 125_000, 13_125, 1_250_000),
            // Rounded down to whole bytes, then to whole microseconds.
            (15, 100, 1, 12, 187_500_000),
            (40_000_000_000, 8_000_000, 5_000_000_000, 126_000_000, 3_125),
            (8, 2_199, 1, 274, 4_281_250_000),
        ] {
            let found = limit(Source::Config, rate, burst).unwrap().unwrap().bucket(DEFAULT_LATENCY);
            assert_eq!(
                (found.rate, found.limit, found.buffer),
                (rate_bytes, limit_bytes, buffer),
                "{rate} {burst}"
            );
        }
        let long = limit(Source::Config, 8_000, 8_000).unwrap().unwrap().bucket(Milliseconds(2000));
        assert_eq!(long.limit, 1000 * 2 + 1000);
    }

    #[test]
    fn every_bound_is_exact_and_its_error_names_the_number_that_passes() {
        assert_eq!(limit(Source::Config, 0, 0).unwrap(), None);
        for (rate, burst, words) in [
            (1000, 0, "if rate is set, burst must also be set"),
            (0, 1000, "if burst is set, rate must also be set"),
            (FAST, 34_359_738_360, "the most is 34359738359"),
            (FAST, u64::MAX, "burst cannot be more than 4GB"),
            (7, 8, "the least is 8"),
            (8, 7, "the least is 8 bits"),
            (FAST, 7_999_999, "the least is 8000000 bits"),
            (8, 2_200, "the most is 2199 bits"),
            (1_000_000, 274_877_907_000, "4GB"),
            (10_000_000, 4_294_967_295, "at this rate it takes 429 s"),
        ] {
            let error = limit(Source::Config, rate, burst).unwrap_err();
            assert_eq!(error.code.0, 7, "{error}");
            assert!(error.to_string().contains(words), "{rate} {burst}: {error}");
        }
        for (rate, burst) in [(FAST, 34_359_738_359), (8, 8), (FAST, 8_000_000), (8, 2_199)] {
            assert!(limit(Source::Config, rate, burst).is_ok(), "{rate} {burst}");
        }
    }

    #[test]
    fn a_runtimes_burst_is_cut_to_what_the_kernel_counts() {
        let cut = limit(Source::Runtime, 10_000_000, u64::from(u32::MAX)).unwrap().unwrap();
        assert_eq!(cut.burst, Bits(2_748_779_069 + 2));
        assert_eq!(cut.burst_micros(), u128::from(MAX_BURST_MICROS));
        assert!(limit(Source::Runtime, 10_000_000, 34_359_738_360).is_err(), "the reference's bound stays");
        let kept =
            Limit::new(Egress, Source::Runtime, BitsPerSecond(20_000_000), Bits(1 << 31)).unwrap().unwrap();
        assert_eq!(kept.burst, Bits(1 << 31));
    }

    #[test]
    fn nothing_overflows() {
        // What kubelet lets through at most.
        let most = limit(Source::Runtime, 1_000_000_000_000_000, 34_359_738_359).unwrap().unwrap();
        assert_eq!(most.bucket(Milliseconds(u32::MAX)).limit, u32::MAX);
        assert!(limit(Source::Runtime, u64::MAX, 34_359_738_359).is_err());
    }
}
