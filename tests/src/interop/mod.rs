//! Real processes, a real redis-server, real sockets on 127.0.0.0/8.
//!
//! - [`cluster::Cluster`] starts proxies, containers and Redis through `sipcluster up`, finds and kills them by pid, and leaves nothing behind;
//! - [`caller::Caller`] plays thousands of phones at once over UDP or TCP, where the moment of each request must be the test's to choose;
//! - [`callee::Callees`] are those whom the cluster calls;
//! - [`phone::Phone`] is one that a test plays word by word, [`telephone::Telephone`] one with sound;
//! - [`baresip::Baresip`] is a softphone not of our making, [`rtpengine::Rtpengine`] what leads media;
//! - [`sipp::Sipp`] runs SIPp, where a second opinion of what a call is counts for more;
//! - [`redis`] is a redis-server that a test kills, stops and fills, [`certificates`] are what it shows over TLS;
//! - [`instances`] is a Redis of several, each run by the image's script on a node of its own;
//! - [`copies`] compares what containers hold with what Redis has;
//! - [`network::Network`] gives every part a node of its own, and cuts any two off from one another;
//! - [`matrix`] lets every fault happen to every application with calls up;
//! - [`soak`] does so for ten minutes;
//! - [`figures`] turns what was measured into one line.

pub mod baresip;
pub mod callee;
pub mod caller;
pub mod certificates;
pub mod cluster;
pub mod copies;
pub mod figures;
pub mod http;
pub mod instances;
pub mod matrix;
pub mod network;
pub mod phone;
pub mod process;
pub mod redis;
pub mod rtpengine;
pub mod sipp;
pub mod soak;
pub mod telephone;
