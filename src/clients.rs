//! Bounded sets of connected clients in which idle ones give way.
//!
//! A server that makes new clients wait while its places are taken can be blocked by clients that say
//! nothing. Here a new client always gets a place. If all places of its class are taken, the source that
//! holds most of them loses its oldest. A class stands for what clients are doing: those that have asked for
//! something are not displaced by those that have not.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Ends when the client has lost its place. Its connection must then be closed.
pub(crate) type Displaced = oneshot::Receiver<Infallible>;

/// The connected clients of one server, by class. `S` identifies the source of a client.
#[derive(Debug)]
pub(crate) struct Clients<S, const CLASSES: usize> {
    /// Maximum number of clients in each class.
    limits: [usize; CLASSES],
    places: Mutex<Places<S>>,
}

#[derive(Debug)]
struct Places<S> {
    /// The number of the next client.
    next: u64,
    /// The client that entered its class first comes first.
    taken: Vec<ClientPlace<S>>,
}

#[derive(Debug)]
struct ClientPlace<S> {
    client: u64,
    source: S,
    class: usize,
    /// Ends [`Displaced`] when dropped.
    _ender: oneshot::Sender<Infallible>,
}

/// The place of one client. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Client<S: Copy + Eq, const CLASSES: usize> {
    number: u64,
    clients: Arc<Clients<S, CLASSES>>,
}

impl<S: Copy + Eq, const CLASSES: usize> Clients<S, CLASSES> {
    /// Creates an empty set with these maximum numbers of clients, at least one for each class.
    pub(crate) fn new(limits: [usize; CLASSES]) -> Arc<Self> {
        Arc::new(Clients { limits, places: Mutex::new(Places { next: 0, taken: Vec::new() }) })
    }

    /// Gives a new client a place in the class `class`.
    pub(crate) fn admit(self: &Arc<Self>, source: S, class: usize) -> (Client<S, CLASSES>, Displaced) {
        let (ender, displaced) = oneshot::channel();
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        places.taken.push(ClientPlace { client: number, source, class, _ender: ender });
        places.bound(class, self.limits[class]);
        (Client { number, clients: Arc::clone(self) }, displaced)
    }

    fn places(&self) -> MutexGuard<'_, Places<S>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Copy + Eq> Places<S> {
    /// Removes a client from `class` if there are more than `limit`. The last client is the new one and stays.
    fn bound(&mut self, class: usize, limit: usize) {
        let sources = || self.taken.iter().filter(|place| place.class == class).map(|place| place.source);
        if sources().count() <= limit {
            return;
        }
        let held = |source| sources().filter(|other| *other == source).count();
        let others = self.taken.iter().enumerate().take(self.taken.len() - 1);
        // Of several maxima, `max_by_key` returns the last: reversed, that is the oldest.
        let loser = others.filter(|(_, place)| place.class == class).rev();
        if let Some((loser, _)) = loser.max_by_key(|(_, place)| held(place.source)) {
            self.taken.remove(loser);
        }
    }
}

impl<S: Copy + Eq, const CLASSES: usize> Client<S, CLASSES> {
    /// Moves the client to `class`, or makes it the newest there if it is in that class already.
    pub(crate) fn enter(&self, class: usize) {
        let mut places = self.clients.places();
        // A client that has lost its place does not get another.
        let Some(at) = places.taken.iter().position(|place| place.client == self.number) else { return };
        let mut place = places.taken.remove(at);
        place.class = class;
        places.taken.push(place);
        places.bound(class, self.clients.limits[class]);
    }
}

impl<S: Copy + Eq, const CLASSES: usize> Drop for Client<S, CLASSES> {
    fn drop(&mut self) {
        self.clients.places().taken.retain(|place| place.client != self.number);
    }
}

#[cfg(test)]
mod tests {
    use oneshot::error::TryRecvError::{Closed, Empty};

    use super::*;

    const IDLE: usize = 0;
    const BUSY: usize = 1;

    #[test]
    fn the_oldest_client_of_the_source_with_most_gives_way() {
        let clients = Clients::new([3, 1]);
        let (_a, mut a) = clients.admit('a', IDLE);
        let (_b1, mut b1) = clients.admit('b', IDLE);
        let (_b2, mut b2) = clients.admit('b', IDLE);
        let (_c, mut c) = clients.admit('c', IDLE);
        assert_eq!(b1.try_recv(), Err(Closed));
        let (_d, mut d) = clients.admit('d', IDLE);
        assert_eq!(a.try_recv(), Err(Closed), "all hold one place, so the oldest gives way");
        for client in [&mut b2, &mut c, &mut d] {
            assert_eq!(client.try_recv(), Err(Empty));
        }
    }

    #[test]
    fn one_source_displaces_only_itself() {
        let clients = Clients::new([4, 1]);
        let (_other, mut other) = clients.admit('a', IDLE);
        let _flood: Vec<_> = (0..100).map(|_| clients.admit('b', IDLE)).collect();
        assert_eq!(other.try_recv(), Err(Empty));
        assert_eq!(clients.places().taken.len(), 4);
    }

    #[test]
    fn a_client_in_another_class_is_not_displaced_and_one_that_leaves_frees_its_place() {
        let clients = Clients::new([1, 1]);
        let (asked, mut displaced) = clients.admit('a', IDLE);
        asked.enter(BUSY);
        let (idle, mut first) = clients.admit('a', IDLE);
        drop(idle);
        let (_second, mut second) = clients.admit('a', IDLE);
        assert_eq!((displaced.try_recv(), second.try_recv()), (Err(Empty), Err(Empty)));
        assert_eq!(first.try_recv(), Err(Closed));
        drop(asked);
        assert_eq!(clients.places().taken.len(), 1);
    }

    #[test]
    fn a_client_that_speaks_is_the_newest_again() {
        let clients = Clients::new([2, 1]);
        let (speaks, mut spoke) = clients.admit('a', IDLE);
        let (_silent, mut silent) = clients.admit('a', IDLE);
        speaks.enter(IDLE);
        let _new = clients.admit('a', IDLE);
        assert_eq!((spoke.try_recv(), silent.try_recv()), (Err(Empty), Err(Closed)));
    }
}
