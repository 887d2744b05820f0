//! What tests of a single member share.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::time::Duration;

use sip::Instant;
use ucf::member::{Config, Faults, Member, STORE_BUDGET};
use ucf::store::MemberRecord;
use ucf::{Incarnation, ProxyId};

pub const LEASE: Duration = Duration::from_secs(2);

/// When every test begins.
pub const BEGINS: Instant = Instant::from_micros(1_000_000);

/// The worker of a proxy that tells whom it sees.
pub const PROXY: ProxyId = ProxyId {
    incarnation: 9,
    worker: 0,
};

pub fn record(incarnation: Incarnation) -> MemberRecord {
    MemberRecord {
        incarnation,
        name: format!("demo-{incarnation}"),
        sip: String::new(),
        ucf: String::new(),
        weight: 100,
    }
}

/// One that begins then.
pub fn member(incarnation: Incarnation, partitions: u16) -> Member {
    let config = Config {
        record: record(incarnation),
        partitions,
        lease: LEASE,
        store_budget: STORE_BUDGET,
        acts_from_memory: true,
        faults: Faults::default(),
    };
    Member::new(config, BEGINS)
}

/// A member in virtual time.
pub trait Virtual {
    fn member(&mut self) -> (&mut Instant, &mut Member);

    /// Does what the member wants done.
    fn perform(&mut self);

    /// Time passes, in which it does what is due.
    fn wait(&mut self, millis: u64) {
        let end = *self.member().0 + Duration::from_millis(millis);
        loop {
            let (now, member) = self.member();
            let due = member.poll_timeout();
            if due > end {
                *now = end;
                return;
            }
            *now = due.max(*now);
            member.handle_timeout(*now);
            self.perform();
        }
    }
}
