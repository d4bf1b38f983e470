//! URLs of metrics.

use std::fmt;
use std::str::FromStr;

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Whether the scheme is `https`.
    pub(super) tls: bool,
    /// The user to log in as.
    pub(super) user: Option<String>,
    /// Host and port, as in the URL.
    pub(super) authority: String,
    /// Path and query, with the leading slash.
    pub(super) path: String,
}

impl FromStr for Url {
    type Err = String;

    /// Parses `http[s]://[USER@]HOST[:PORT][/PATH]`; the scheme may be left out for `http`, and the path for `/metrics`.
    /// A password is refused, since every user of the host can read the arguments of a process.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some((scheme, _)) => {
                return Err(format!("the scheme {scheme:?} is not supported; use http:// or https://"));
            }
            None => (false, text),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(
                "a password is not taken from here, where all users can read it; use --password-file".into(),
            );
        }
        let parts = [Some(authority), Some(path), user];
        let valid = parts.into_iter().flatten().all(|part| part.chars().all(|c| c.is_ascii_graphic()));
        if !valid || authority.is_empty() || user.is_some_and(str::is_empty) {
            return Err("expected http://HOST:PORT/metrics or https://USER@HOST:PORT/metrics".to_owned());
        }
        let path = if path.len() < 2 { "/metrics" } else { path };
        Ok(Url { tls, user: user.map(str::to_owned), authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    /// Writes the URL without the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.tls { "s" } else { "" }, self.authority, self.path)
    }
}

impl Url {
    /// Returns where the port begins, behind a colon. The colons of an IPv6 address are in brackets.
    fn port_at(&self) -> Option<usize> {
        let after_address = self.authority.rfind(']').map_or(0, |end| end + 1);
        self.authority[after_address..].find(':').map(|colon| after_address + colon)
    }

    /// Returns host and port, which is 80 or 443 if the URL has none.
    pub(super) fn address(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        self.port_at().map_or_else(|| format!("{}:{default}", self.authority), |_| self.authority.clone())
    }

    /// Returns the name or address of the host, without brackets.
    pub(super) fn host(&self) -> &str {
        let host = &self.authority[..self.port_at().unwrap_or(self.authority.len())];
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_leave_out_its_scheme_port_and_path() {
        for (text, url, address, host) in [
            ("http://127.0.0.1:9586/metrics", "http://127.0.0.1:9586/metrics", "127.0.0.1:9586", "127.0.0.1"),
            ("router", "http://router/metrics", "router:80", "router"),
            ("http://[::1]:9586/", "http://[::1]:9586/metrics", "[::1]:9586", "::1"),
            ("http://[::1]/x?y", "http://[::1]/x?y", "[::1]:80", "::1"),
            ("https://router", "https://router/metrics", "router:443", "router"),
            ("https://alice@router:1/x", "https://router:1/x", "router:1", "router"),
        ] {
            let parsed: Url = text.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.address().as_str()), (url, address));
            assert_eq!(parsed.host(), host);
            assert_eq!(parsed.user.is_some(), text.contains('@'));
        }
        for text in [
            "",
            "http://",
            "ftp://x",
            "http://a b",
            "http://a/b\r\nc",
            "http://@x",
            "/metrics",
            "https://a\n@x",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_without_being_repeated() {
        let why = "https://alice:secret@router/metrics".parse::<Url>().unwrap_err();
        assert!(why.contains("--password-file") && !why.contains("secret"), "{why}");
    }
}
