//! What the keys are called.
//!
//! | key | type | holds |
//! | --- | --- | --- |
//! | `sc:{CLUSTER:pN}:o` | hash | owner, epoch, running number and hand-over target of partition N |
//! | `sc:{CLUSTER:pN}:r` | hash | its records |
//! | `sc:{CLUSTER:m}:members` | hash | member records by incarnation |
//! | `sc:{CLUSTER:m}:counters` | hash | their counters, and `era`: a random number as old as the data |
//! | `sc:{CLUSTER:m}:room` | string | nothing: written to learn whether the server takes writes |
//! | `sc:{CLUSTER:m}:fence:INCARNATION` | hash | `token` and links' generations: lets a member's workers write by plain commands |
//!
//! A fence is deleted an hour after its member was removed; until then it tells late packets of dead connections.
//!
//! Scripts touch keys of several partitions, and of members besides. A Redis Cluster allows that within one hash tag, so there it is the cluster's:
//! `sc:{CLUSTER}:pN:o`, `sc:{CLUSTER}:m:members`. All of a SipCluster is then on one master.

use ucf::{Incarnation, PartitionId};

/// The keys of one SipCluster.
pub(super) struct Keys {
    cluster: String,
    /// All have one hash tag.
    together: bool,
}

impl Keys {
    pub fn new(cluster: &str, together: bool) -> Self {
        Self {
            cluster: cluster.to_owned(),
            together,
        }
    }

    pub fn members(&self) -> String {
        self.of_members("members")
    }

    pub fn counters(&self) -> String {
        self.of_members("counters")
    }

    pub fn room(&self) -> String {
        self.of_members("room")
    }

    /// What all fences begin with; a member's own number follows.
    pub fn fences(&self) -> String {
        self.of_members("fence:")
    }

    pub fn fence(&self, member: Incarnation) -> String {
        self.of_members(&format!("fence:{member}"))
    }

    pub fn owner(&self, partition: PartitionId) -> String {
        self.of_partition(partition, 'o')
    }

    pub fn records(&self, partition: PartitionId) -> String {
        self.of_partition(partition, 'r')
    }

    fn of_members(&self, what: &str) -> String {
        let cluster = &self.cluster;
        if self.together {
            format!("sc:{{{cluster}}}:m:{what}")
        } else {
            format!("sc:{{{cluster}:m}}:{what}")
        }
    }

    fn of_partition(&self, PartitionId(number): PartitionId, what: char) -> String {
        let cluster = &self.cluster;
        if self.together {
            format!("sc:{{{cluster}}}:p{number}:{what}")
        } else {
            format!("sc:{{{cluster}:p{number}}}:{what}")
        }
    }
}
