//! The routes and rules that follow from the configuration.

use ipnet::IpNet;

use super::{RouterConfig, Table};
use crate::netlink::{DefaultRule, IpVersion, Route};

impl RouterConfig {
    /// Returns the routes into the interface, without duplicates: one per allowed IP of the peers in
    /// [`update`](Self::update), except networks of the interface's addresses, for which the kernel adds a route to
    /// the main table itself. Empty if `up` is false or the table is off.
    pub fn routes(&self) -> Vec<Route> {
        let table = |net: &IpNet| match self.table {
            Table::Off => None,
            Table::Auto if net.prefix_len() == 0 => self.mark(),
            Table::Auto => Some(Table::MAIN),
            Table::Number(number) => Some(number),
        };
        let is_on_link = |net: &IpNet| self.addresses.iter().any(|address| address.trunc() == *net);
        let nets = if self.up { self.allowed_ips() } else { Vec::new() };
        let routes = nets.into_iter().filter_map(|net| Some(Route { net, table: table(&net)? }));
        routes.filter(|route| route.table != Table::MAIN || !is_on_link(&route.net)).collect()
    }

    /// Returns the rules that select the default routes among [`routes`](Self::routes).
    pub fn rules(&self) -> Vec<DefaultRule> {
        let Some(mark) = self.mark() else { return Vec::new() };
        let defaults = self.allowed_ips().into_iter().filter(|net| net.prefix_len() == 0);
        defaults
            .map(|net| {
                let version = IpVersion::of(net.addr());
                DefaultRule { version, mark }
            })
            .collect()
    }

    /// Returns whether the router needs a table for default routes and may choose its number.
    pub fn wants_table(&self) -> bool {
        self.mark_is_free && self.mark().is_some()
    }

    /// Sets the number of the table for default routes, and the mark of our own datagrams.
    pub fn set_table(&mut self, number: u32) {
        self.update.fwmark = Some(number);
    }

    /// Returns the destinations whose packets must not leave by another interface: the default routes among
    /// [`routes`](Self::routes) that rules select and, with [`keep`](Self::keep), all allowed IPs. Empty if the user
    /// chose the table or adds routes otherwise.
    pub fn unreachable(&self) -> Vec<Route> {
        if !self.up || self.table != Table::Auto {
            return Vec::new();
        }
        let mark = self.mark();
        let place = |net: IpNet| match net.prefix_len() {
            0 => Some(Route { net, table: mark? }),
            _ => self.keep.then_some(Route { net, table: Table::MAIN }),
        };
        self.allowed_ips().into_iter().filter_map(place).collect()
    }

    /// Returns the mark that exempts our own datagrams from the default routes, if there are rules for those.
    pub(super) fn mark(&self) -> Option<u32> {
        let everything = self.allowed_ips().iter().any(|net| net.prefix_len() == 0);
        let mark = self.update.fwmark.filter(|mark| *mark != 0).unwrap_or(Table::DEFAULT_ROUTES);
        (self.up && self.table == Table::Auto && everything).then_some(mark)
    }

    /// Returns the peers' allowed IPs, sorted and without duplicates.
    fn allowed_ips(&self) -> Vec<IpNet> {
        let changes = self.update.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let mut nets: Vec<_> = changes.filter(|change| !change.remove).map(|change| change.net).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }
}
