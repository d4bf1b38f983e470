//! Basic authentication (RFC 7617) with bcrypt hashes.
//!
//! A bcrypt hash is made to be slow: at cost 10, some 50 ms of CPU time. Logins are therefore checked on another thread,
//! one at a time, and after a wrong one nobody is checked for three times as long as the check took, so that a flood of
//! logins takes at most a quarter of one CPU. A login that was right before is recognized by a keyed hash and waits for
//! nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use tokio::sync::{Semaphore, oneshot};
use tokio::task;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// Lowest cost that bcrypt has.
const MIN_COST: u32 = 4;

/// Highest cost: a check takes about one second.
const MAX_COST: u32 = 14;

/// Number of right logins that are recognized again.
const REMEMBERED: usize = 64;

/// How many times as long as a check of a wrong login took nobody is checked after it.
const PAUSE: u32 = 3;

/// The users that may log in.
pub(crate) struct Logins {
    hashes: BTreeMap<String, String>,
    /// The hash that costs most. Unknown users are checked against it too, so that the time of an answer does not tell
    /// whether a user exists.
    costliest: String,
    turn: Arc<Semaphore>,
    key: hmac::Key,
    known: Mutex<Vec<hmac::Tag>>,
}

impl Logins {
    /// Takes the users with their bcrypt hashes, at least one.
    ///
    /// # Errors
    /// There is no user, or a hash is invalid or its cost out of bounds. Names the user.
    pub(crate) fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        if hashes.is_empty() {
            return Err("basic_auth_users: expected at least one user".to_owned());
        }
        let mut costliest = (0, String::new());
        for (user, hash) in &hashes {
            let parts = HashParts::from_str(hash).map_err(|_| {
                format!("basic_auth_users: {user}: not a bcrypt hash, as `htpasswd -nB` prints it")
            })?;
            let cost = parts.get_cost();
            if !(MIN_COST..=MAX_COST).contains(&cost) {
                return Err(format!(
                    "basic_auth_users: {user}: expected a cost of at least {MIN_COST} and at most {MAX_COST}, not {cost}"
                ));
            }
            costliest = costliest.max((cost, hash.clone()));
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| "basic_auth_users: the system has no randomness")?;
        let turn = Arc::new(Semaphore::new(1));
        Ok(Logins { hashes, costliest: costliest.1, turn, key, known: Mutex::default() })
    }

    /// Returns whether `self` and `other` have the same users with the same hashes.
    pub(super) fn is_same(&self, other: &Logins) -> bool {
        self.hashes == other.hashes
    }

    /// Returns whether an `Authorization` header is that of a user with the right password.
    pub(crate) async fn admits(&self, header: &[u8]) -> bool {
        let Some(login) = credentials(header) else { return false };
        let Some(colon) = login.iter().position(|byte| *byte == b':') else { return false };
        if self.is_known(&login) {
            return true;
        }
        let hash = std::str::from_utf8(&login[..colon]).ok().and_then(|user| self.hashes.get(user));
        let (exists, hash) = (hash.is_some(), hash.unwrap_or(&self.costliest).clone());
        let turn = Arc::clone(&self.turn).acquire_owned().await.expect("the semaphore is never closed");
        let password = Zeroizing::new(login[colon + 1..].to_vec());
        let (answer, answered) = oneshot::channel();
        // A task of its own: the turn ends with the pause, not with the client, which may leave before.
        task::spawn(async move {
            let start = Instant::now();
            // Compares in constant time. A check that panics or finds no thread admits nobody.
            let check = move || bcrypt::verify(&*password, &hash).unwrap_or(false) && exists;
            let right = task::spawn_blocking(check).await.unwrap_or(false);
            let _ = answer.send(right);
            if !right {
                sleep(start.elapsed() * PAUSE).await;
            }
            drop(turn);
        });
        let right = answered.await.unwrap_or(false);
        if right {
            self.remember(&login);
        }
        right
    }

    fn is_known(&self, login: &[u8]) -> bool {
        // Compares in constant time.
        let is = |tag: &hmac::Tag| hmac::verify(&self.key, login, tag.as_ref()).is_ok();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().any(is)
    }

    fn remember(&self, login: &[u8]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == REMEMBERED {
            known.remove(0);
        }
        known.push(hmac::sign(&self.key, login));
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("users", &self.hashes.len()).finish_non_exhaustive()
    }
}

/// Returns user and password, with a colon between them.
fn credentials(header: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, login) = header.split_at_checked(6)?;
    let login = scheme.eq_ignore_ascii_case(b"Basic ").then(|| login.trim_ascii())?;
    BASE64_STANDARD.decode(login).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The hash of `secret`, at the lowest cost.
    fn hash() -> String {
        bcrypt::hash("secret", 4).unwrap()
    }

    fn logins() -> Logins {
        Logins::new(BTreeMap::from([("alice".to_owned(), hash())])).unwrap()
    }

    fn header(login: &str) -> Vec<u8> {
        format!("Basic {}", BASE64_STANDARD.encode(login)).into_bytes()
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn only_a_known_user_with_the_right_password_is_admitted() {
        let logins = logins();
        run(async {
            for _ in 0..2 {
                assert!(logins.admits(&header("alice:secret")).await);
            }
            assert_eq!(logins.known.lock().unwrap().len(), 1, "a known login was checked again");
            for wrong in ["alice:Secret", "alice:", "alice", "bob:secret", "Alice:secret", ":", ""] {
                assert!(!logins.admits(&header(wrong)).await, "{wrong}");
            }
            for wrong in [&b""[..], b"Basic", b"Basic !", b"Bearer x", b"\xff\xff\xff\xff\xff\xff\xff"] {
                assert!(!logins.admits(wrong).await, "{wrong:?}");
            }
            let mut lower = header("alice:secret");
            lower[..5].copy_from_slice(b"basic");
            assert!(
                logins.admits(&lower).await,
                "the scheme's case does not matter (RFC 9110, section 11.1)"
            );
        });
    }

    #[test]
    fn a_known_login_does_not_wait_behind_others() {
        let logins = logins();
        run(async {
            assert!(logins.admits(&header("alice:secret")).await);
            let _turn = logins.turn.acquire().await.unwrap();
            assert!(logins.admits(&header("alice:secret")).await);
        });
    }

    #[test]
    fn hashes_are_checked_and_their_cost_is_bounded() {
        let refusal = |hash: &str| Logins::new(BTreeMap::from([("alice".into(), hash.into())])).unwrap_err();
        assert!(refusal("secret").contains("alice"));
        let costly = hash().replacen("$04$", "$15$", 1);
        assert!(refusal(&costly).contains("at most 14"), "{}", refusal(&costly));
        let cheap = hash().replacen("$04$", "$03$", 1);
        assert!(refusal(&cheap).contains("at least 4"), "{}", refusal(&cheap));
        assert!(Logins::new(BTreeMap::new()).is_err(), "nobody could log in");
        assert!(!format!("{:?}", logins()).contains("$2"), "hashes are shown");
    }

    #[test]
    fn unknown_users_are_checked_against_the_costliest_hash() {
        let costly = bcrypt::hash("secret", 5).unwrap();
        let users = [("alice".into(), costly.clone()), ("bob".into(), hash())];
        assert_eq!(Logins::new(users.into()).unwrap().costliest, costly);
    }

    #[test]
    fn the_check_of_a_client_that_leaves_still_has_its_turn() {
        let logins = logins();
        let (release, released) = std::sync::mpsc::channel::<()>();
        run(async {
            // Takes the only thread for checks, so that the next one cannot end early.
            let busy = tokio::task::spawn_blocking(move || released.recv());
            let wrong = header("alice:wrong");
            let left = tokio::time::timeout(Duration::ZERO, logins.admits(&wrong)).await;
            assert!(left.is_err() && logins.turn.available_permits() == 0, "two checks could run at once");
            drop(release);
            assert!(busy.await.unwrap().is_err());
            assert!(logins.admits(&header("alice:secret")).await);
        });
    }
}
