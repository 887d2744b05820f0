//! Weighted rendezvous: who is to own a partition, computed alike by everybody who knows the same members.
//!
//! A member that comes or goes moves only the partitions that it gains or loses. Integers only, so that all machines agree.

use crate::{Incarnation, PartitionId};

/// A member that may own partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub member: Incarnation,
    /// Its share against that of others, from 1.
    pub weight: u16,
}

/// Who is to own the partition.
#[must_use]
pub fn owner(partition: PartitionId, candidates: &[Candidate]) -> Option<Incarnation> {
    candidates.iter().min_by_key(|c| cost(partition, c)).map(|c| c.member)
}

/// How many candidates come before `member`: 0 is the owner-to-be; after all, if it is no candidate.
#[must_use]
pub fn rank(partition: PartitionId, member: Incarnation, candidates: &[Candidate]) -> usize {
    let Some(own) = candidates.iter().find(|c| c.member == member) else {
        return candidates.len();
    };
    let own = cost(partition, own);
    candidates.iter().filter(|c| cost(partition, c) < own).count()
}

/// The lowest wins: -log2(u) / weight for a u in (0, 1) drawn by hash, and the member's id against ties.
fn cost(partition: PartitionId, candidate: &Candidate) -> (u64, u64) {
    let drawn = mix(candidate.member.0 ^ mix(u64::from(partition.0).wrapping_add(0x5349_5043_4c55_5354)));
    let bits = minus_log2(drawn) << 20;
    (bits / u64::from(candidate.weight.max(1)), candidate.member.0)
}

/// -log2(drawn / 2^64) with 32 fractional bits.
fn minus_log2(drawn: u64) -> u64 {
    let drawn = drawn | 1;
    let zeros = drawn.leading_zeros();
    // In [1, 2) with 31 fractional bits; squaring yields one bit of the logarithm at a time.
    let mut mantissa = (drawn << zeros) >> 32;
    let mut fraction = 0_u64;
    for bit in (0..24).rev() {
        mantissa = (mantissa * mantissa) >> 31;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            fraction |= 1 << bit;
        }
    }
    // log2 of the value = 64 - zeros - 1 + fraction; the result keeps 24 fractional bits.
    ((u64::from(zeros) + 1) << 24) - fraction
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        weights
            .iter()
            .zip(1..)
            .map(|(&weight, n)| Candidate {
                member: Incarnation(mix(n)),
                weight,
            })
            .collect()
    }

    fn share(of: &Candidate, all: &[Candidate]) -> usize {
        (0..4096)
            .filter(|p| owner(PartitionId(*p), all) == Some(of.member))
            .count()
    }

    #[test]
    fn shares_follow_the_weights() {
        let all = candidates(&[100, 100, 200]);
        let shares: Vec<_> = all.iter().map(|c| share(c, &all)).collect();
        assert!((900..1150).contains(&shares[0]), "{shares:?}");
        assert!((900..1150).contains(&shares[1]), "{shares:?}");
        assert!((1900..2200).contains(&shares[2]), "{shares:?}");
    }

    #[test]
    fn a_member_that_goes_moves_only_its_own_partitions() {
        let all = candidates(&[100, 70, 100, 30]);
        for p in (0..4096).map(PartitionId) {
            let before = owner(p, &all);
            let after = owner(p, &all[..3]);
            assert!(before == after || before == Some(all[3].member));
        }
    }

    #[test]
    fn ranks_are_a_permutation_that_begins_with_the_owner() {
        let all = candidates(&[100, 100, 50, 10]);
        for p in (0..64).map(PartitionId) {
            let mut ranks: Vec<_> = all.iter().map(|c| rank(p, c.member, &all)).collect();
            let first = ranks.iter().position(|r| *r == 0).map(|i| all[i].member);
            assert_eq!(first, owner(p, &all));
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2, 3]);
            assert_eq!(rank(p, Incarnation(1), &all), 4);
        }
    }
}
