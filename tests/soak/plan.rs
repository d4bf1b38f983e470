//! What to run: from the variables that `tests/soak/run` sets.

use std::env;
use std::time::Duration;

use laneway::wireguard::keys::{Entropy as _, OsEntropy};

/// How long a run without `SOAK_MINUTES` takes, as in the gate, and its seed.
const SMOKE: Duration = Duration::from_secs(20);
const SMOKE_SEED: u64 = 1;

/// The longest warm-up, after which memory is first looked at.
const WARM_UP: Duration = Duration::from_secs(30);

/// An invariant to break on purpose, which shows that it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A wrong bit in a datagram.
    Bytes,
    /// A wrong bit in a TCP stream.
    Stream,
    /// Two datagrams in the wrong order.
    Order,
    /// A datagram twice.
    Twice,
    /// A rule that leads past the tunnel.
    Clear,
    /// A router that loses its process.
    Death,
}

impl Sabotage {
    const ALL: [Sabotage; 6] = [
        Sabotage::Bytes,
        Sabotage::Stream,
        Sabotage::Order,
        Sabotage::Twice,
        Sabotage::Clear,
        Sabotage::Death,
    ];

    /// # Panics
    /// If there is none of this name.
    fn named(name: &str) -> Sabotage {
        let found = Sabotage::ALL.into_iter().find(|one| format!("{one:?}").eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("SOAK_BREAK={name}: one of {:?}", Sabotage::ALL))
    }
}

pub struct Plan {
    pub time: Duration,
    pub warm_up: Duration,
    pub seed: u64,
    pub sabotage: Option<Sabotage>,
    /// The only actions to run, if not empty.
    pub only: Vec<String>,
    /// Where the logs of the routers go.
    pub logs: Option<String>,
}

impl Plan {
    /// # Panics
    /// If a variable is not as expected.
    pub fn from_environment() -> Plan {
        let get = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str| {
            get(name).map(|text| text.parse::<f64>().unwrap_or_else(|_| panic!("{name}={text}: a number")))
        };
        let minutes = number("SOAK_MINUTES");
        let time = minutes.map_or(SMOKE, |minutes| Duration::from_secs_f64(minutes * 60.0));
        let seed = get("SOAK_SEED")
            .map(|text| text.parse().unwrap_or_else(|_| panic!("SOAK_SEED={text}: a number")));
        Plan {
            time,
            warm_up: WARM_UP.min(time / 10),
            seed: seed.unwrap_or_else(|| minutes.map_or(SMOKE_SEED, |_| u64::from_le_bytes(random()))),
            sabotage: get("SOAK_BREAK").map(|name| Sabotage::named(&name)),
            only: get("SOAK_ONLY").map_or(Vec::new(), |text| text.split(',').map(str::to_owned).collect()),
            logs: get("SOAK_LOGS"),
        }
    }
}

/// Returns random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsEntropy::new().expect("the system's randomness").fill(&mut bytes);
    bytes
}
