//! Numbers and their names, as `wg` and `ip` read them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Table;

/// Places of iproute2's tables, the administrator's first. Each may have a directory `rt_tables.d` beside it.
const TABLES: [&str; 3] = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"];

/// The list of port names (services(5)).
const SERVICES: &str = "/etc/services";

/// Parses a number as `strtoul` does with base 0: hexadecimal after `0x`, octal after `0`, otherwise decimal.
pub(super) fn number(text: &str) -> Option<u32> {
    // `from_str_radix` would accept a sign.
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
    }
    if text.len() > 1 && text.starts_with('0') {
        return u32::from_str_radix(text, 8).ok();
    }
    text.parse().ok()
}

/// Parses a UDP port: a number, or a name from `/etc/services`.
pub(super) fn port(text: &str) -> Option<u16> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        return text.parse().ok();
    }
    fs::read_to_string(SERVICES).ok().and_then(|list| service(&list, text))
}

/// Returns the port that services(5) lists under `name` for UDP.
fn service(list: &str, name: &str) -> Option<u16> {
    list.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/udp")?;
        (first == name || words.any(|alias| alias == name)).then(|| port.parse().ok())?
    })
}

/// Parses a routing table as `ip` does: a number, or a name from `rt_tables` (ip-route(8)). 0 means the main table.
pub(super) fn table(text: &str) -> Option<u32> {
    let built_in = match text {
        "default" => Some(253),
        "main" => Some(Table::MAIN),
        "local" => Some(255),
        _ => None,
    };
    let numbered = number(text).map(|number| if number == 0 { Table::MAIN } else { number });
    built_in.or(numbered).or_else(|| TABLES.iter().find_map(|place| table_in(Path::new(place), text)))
}

/// Looks `name` up in the file `rt_tables` of the directory `place`, and in the files of `rt_tables.d` there.
fn table_in(place: &Path, name: &str) -> Option<u32> {
    let more = fs::read_dir(place.join("rt_tables.d")).into_iter().flatten().flatten();
    let more =
        more.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "conf"));
    let mut more: Vec<PathBuf> = more.collect();
    more.sort_unstable();
    let files = std::iter::once(place.join("rt_tables")).chain(more);
    files.filter_map(|file| fs::read_to_string(file).ok()).find_map(|list| {
        list.lines().find_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let number = number(words.next()?)?;
            (words.next() == Some(name)).then_some(number)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_base_that_its_prefix_says() {
        for (text, is) in [("51820", 51820), ("0xca6c", 0xca6c), ("0XF", 15), ("010", 8), ("0", 0)] {
            assert_eq!(number(text), Some(is), "{text}");
        }
        for text in ["", "x", "-1", "+1", "0x", "0x+1", "08", "4294967296", "1 "] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_may_have_a_name() {
        let list = "# comment\nopenvpn\t\t1194/tcp\nopenvpn\t\t1194/udp ovpn # alias\n";
        assert_eq!((service(list, "openvpn"), service(list, "ovpn")), (Some(1194), Some(1194)));
        assert_eq!((service(list, "alias"), service(list, "x")), (None, None));
        assert_eq!((port("51820"), port("65536"), port("")), (Some(51820), None, None));
    }

    #[test]
    fn a_table_may_have_a_name() {
        let folder = std::env::temp_dir().join(format!("laneway-tables-{}", std::process::id()));
        fs::create_dir_all(folder.join("rt_tables.d")).unwrap();
        fs::write(folder.join("rt_tables"), "#\n# local\n100\tvpn # ours\n").unwrap();
        fs::write(folder.join("rt_tables.d/x.conf"), "0x65 other\n").unwrap();
        fs::write(folder.join("rt_tables.d/x.bak"), "102 old\n").unwrap();
        let found = ["vpn", "other", "old", "ours"].map(|name| table_in(&folder, name));
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(found, [Some(100), Some(101), None, None]);
        assert_eq!(["main", "default", "local", "0", "7"].map(table), [254, 253, 255, 254, 7].map(Some));
    }
}
