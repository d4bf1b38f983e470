//! CPU lists such as `0-3,8`, as in cpusets, sysfs and settings (cpuset(7), "List format").

use std::fmt;
use std::str::FromStr;

/// The highest valid CPU number: glibc's `CPU_SETSIZE` - 1.
const HIGHEST: usize = 1023;

/// A nonempty list of distinct CPU numbers, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The CPU numbers, in the order given.
    pub fn cpus(&self) -> &[usize] {
        &self.0
    }

    /// Creates a list of `cpus` without duplicates, or `None` if there are none.
    pub fn of(cpus: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut list = Vec::new();
        for cpu in cpus {
            if !list.contains(&cpu) {
                list.push(cpu);
            }
        }
        (!list.is_empty()).then_some(CpuList(list))
    }

    /// Returns the CPU at `index`, starting over at the end of the list.
    pub fn nth_wrapping(&self, index: usize) -> usize {
        self.0[index % self.0.len()]
    }
}

/// The text is not a valid CPU list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CPU numbers from 0 to {HIGHEST} and ranges of them, as in `0-3,8`")]
pub struct CpuListError;

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let number = |text: &str| match text.parse() {
            Ok(cpu) if cpu <= HIGHEST && !text.starts_with('+') => Ok(cpu),
            _ => Err(CpuListError),
        };
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(CpuListError);
            }
            for cpu in first..=last {
                if !cpus.contains(&cpu) {
                    cpus.push(cpu);
                }
            }
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_and_single_cpus_mix_and_repeat() {
        assert_eq!("0-3,8".parse::<CpuList>().unwrap().cpus(), [0, 1, 2, 3, 8]);
        assert_eq!("0-3,8".parse::<CpuList>().unwrap().nth_wrapping(6), 1);
        assert_eq!("5, 4-6".parse::<CpuList>().unwrap().cpus(), [5, 4, 6]);
    }

    #[test]
    fn runs_are_printed_as_ranges_and_the_order_is_kept() {
        let list = CpuList::of([8, 0, 1, 2, 1, 5, 4]).unwrap();
        assert_eq!(list.to_string(), "8,0-2,5,4");
        assert_eq!(CpuList::of([]), None);
    }

    #[test]
    fn what_is_not_a_list_is_refused() {
        for text in ["", ",", "1,", "a", "3-1", "-1", "1-", "1024", "0-99999999999", "+1", "0x1"] {
            assert_eq!(text.parse::<CpuList>(), Err(CpuListError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_list_is_printed_as_it_is_read(cpus in proptest::collection::vec(0..=HIGHEST, 1..20)) {
            let text = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let list: CpuList = text.parse().unwrap();
            prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list.clone());
            prop_assert_eq!(CpuList::of(cpus.clone()), Some(list.clone()));
            prop_assert!(cpus.iter().all(|cpu| list.cpus().contains(cpu)));
        }
    }
}
