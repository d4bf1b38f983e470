//! Mistyped commands. `laneway NAME` creates an interface, so a mistyped command would too.

use super::Failure;

/// Words that people type for a command, and the command.
const WORDS: [(&str, &str); 17] = [
    ("run", "run"),
    ("demo", "demo"),
    ("doctor", "doctor"),
    ("show", "show"),
    ("drops", "drops"),
    ("check", "check"),
    ("genkey", "genkey"),
    ("genpsk", "genpsk"),
    ("pubkey", "pubkey"),
    ("help", "--help"),
    ("version", "--version"),
    ("status", "show"),
    ("start", "run"),
    ("up", "run"),
    ("keygen", "genkey"),
    ("stop", "--help"),
    ("down", "--help"),
];

/// Refuses an interface name that looks like a mistyped command. Names with digits, as interfaces mostly have, and
/// names after `--` are never refused.
///
/// # Errors
/// [`Failure::Mistyped`], with the command that was probably meant.
pub(super) fn check(name: &str, after_dashes: bool) -> Result<(), Failure> {
    match near(name).filter(|_| !after_dashes) {
        Some(near) => Err(Failure::Mistyped { name: name.to_owned(), near }),
        None => Ok(()),
    }
}

/// Returns the command that `name` is close to, if any.
fn near(name: &str) -> Option<&'static str> {
    if name.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let close = |word: &str| {
        let most = if word.len() < 3 { 0 } else { 1 + usize::from(word.len() > 5) };
        // The first letter is rarely wrong, and without this rule `tun` would be a mistyped `run`.
        lower.starts_with(&word[..1]) && crate::config::spelling::distance(&lower, word) <= most
    };
    WORDS.iter().find(|(word, _)| close(word)).map(|(_, command)| *command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_commands_are_told_from_interfaces() {
        for (name, command) in [
            ("stauts", "show"),
            ("rnu", "run"),
            ("Run", "run"),
            ("version", "--version"),
            ("docter", "doctor"),
            ("shwo", "show"),
            ("drop", "drops"),
            ("up", "run"),
            ("genkye", "genkey"),
        ] {
            assert_eq!(near(name), Some(command), "{name}");
        }
        for name in ["wg0", "run0", "tun", "home", "office", "server", "wg-home", "lo", "utun", "x", "de-fra"]
        {
            assert_eq!(near(name), None, "{name}");
        }
        assert!(check("stauts", true).is_ok());
        let refused = check("stauts", false).unwrap_err();
        assert_eq!(refused.status(), 2);
        assert!(refused.to_string().contains("`laneway -- stauts`"), "{refused}");
    }
}
