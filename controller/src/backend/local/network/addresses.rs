//! The subnet of the bridge and who has which address in it. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::link::Route;
use super::netmask;

/// Bits of the subnet: 4093 instances.
pub(in crate::backend) const PREFIX: u8 = 20;

/// A private subnet, with the bridge's address as its first, that no route of the host and no resolver meets.
pub(in crate::backend) fn choose(routes: &[Route], resolv_conf: &str) -> Option<Ipv4Addr> {
    let resolvers: Vec<Ipv4Addr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .collect();
    // High in 10/8, where few networks are, and then 172.16/12; 192.168/16 is everybody's home.
    let tens = (0..40).map(|second| Ipv4Addr::new(10, 213 + second, 0, 0));
    let others = (16..32).rev().map(|second| Ipv4Addr::new(172, second, 0, 0));
    let free = |subnet: &Ipv4Addr| {
        let meets = |address: Ipv4Addr, prefix: u8| {
            let common = netmask(prefix.min(PREFIX));
            address.to_bits() & common == subnet.to_bits() & common
        };
        !routes.iter().any(|route| route.prefix != 0 && meets(route.destination, route.prefix))
            && !resolvers.iter().any(|resolver| meets(*resolver, 32))
    };
    tens.chain(others).find(free).map(|subnet| Ipv4Addr::from_bits(subnet.to_bits() | 1))
}

/// Addresses of one subnet. Given out in turn, so that one is not used again while somebody still remembers its last owner.
#[derive(Debug)]
pub(in crate::backend) struct Addresses {
    first: u32,
    last: u32,
    next: u32,
    taken: BTreeSet<u32>,
}

impl Addresses {
    /// The subnet of `gateway`, which is taken, as are those of instances that run already.
    pub(in crate::backend) fn new(gateway: Ipv4Addr, taken: Vec<Ipv4Addr>) -> Self {
        let mask = netmask(PREFIX);
        let subnet = gateway.to_bits() & mask;
        let taken: BTreeSet<u32> =
            taken.into_iter().map(Ipv4Addr::to_bits).chain([gateway.to_bits()]).collect();
        let next = taken.iter().next_back().copied().unwrap_or(subnet);
        // Without the first, which names the subnet, and the last, which means everybody.
        Self { first: subnet + 1, last: (subnet | !mask) - 1, next, taken }
    }

    /// One that nobody has.
    pub(in crate::backend) fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in self.first..=self.last {
            self.next = if self.next >= self.last { self.first } else { self.next + 1 };
            if self.taken.insert(self.next) {
                return Some(Ipv4Addr::from_bits(self.next));
            }
        }
        None
    }

    /// It is nobody's any more.
    pub(in crate::backend) fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: [u8; 4], prefix: u8) -> Route {
        Route { destination: destination.into(), prefix, link: None }
    }

    #[test]
    fn a_subnet_that_the_host_uses_is_left_alone() {
        let home = [route([0; 4], 0), route([192, 168, 1, 0], 24)];
        assert_eq!(choose(&home, ""), Some(Ipv4Addr::new(10, 213, 0, 1)));
        let vpn = [route([10, 213, 16, 0], 24), route([10, 214, 0, 0], 16)];
        assert_eq!(choose(&vpn, ""), Some(Ipv4Addr::new(10, 213, 0, 1)), "next to it is free");
        let inside = [route([10, 213, 1, 0], 24)];
        assert_eq!(choose(&inside, ""), Some(Ipv4Addr::new(10, 214, 0, 1)));
        let all_of_ten = [route([10, 0, 0, 0], 8)];
        assert_eq!(choose(&all_of_ten, ""), Some(Ipv4Addr::new(172, 31, 0, 1)));
        assert_eq!(choose(&[], "nameserver 10.213.0.53"), Some(Ipv4Addr::new(10, 214, 0, 1)));
        assert_eq!(choose(&[route([10, 0, 0, 0], 8), route([172, 16, 0, 0], 12)], ""), None);
    }

    #[test]
    fn an_address_has_one_owner_and_comes_back_last() {
        let gateway = Ipv4Addr::new(10, 213, 0, 1);
        let running = Ipv4Addr::new(10, 213, 0, 2);
        let mut addresses = Addresses::new(gateway, vec![running]);
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 213, 0, 3));
        addresses.release(first);
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(10, 213, 0, 4)));
        let rest: BTreeSet<_> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!(rest.len(), 4094 - 3, "all but the bridge, the running one and the one just taken");
        assert!(!rest.contains(&gateway) && !rest.contains(&running) && rest.contains(&first));
        addresses.release(running);
        assert_eq!(addresses.take(), Some(running));
    }
}
