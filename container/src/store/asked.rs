//! Which server is the master, by whom is asked for it: Sentinels, or the nodes of a Redis Cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, RedisConnectionInfo, RedisResult};
use tokio::task::JoinSet;

use super::Lost;
use super::connection::{self, Connection, Patience};
use super::tls::Tls;

/// What is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// Of Sentinels: where the master of this name is.
    MasterCalled(String),
    /// Of a Redis Cluster's nodes: where the master is that has this key.
    MasterOf(String),
}

/// What one of them says of the master.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Grows with every promotion that has been heard of.
    epoch: u64,
    pub host: String,
    pub port: u16,
    /// A quorum has found it dead, and nothing was promoted yet.
    pub down: bool,
}

impl Said {
    fn names_what(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.port == other.port && self.host == other.host
    }

    /// Which promotion, and how many say the same of it. A Sentinel whose own promotion was overtaken, and whose replica was down when that
    /// came to its end, names this replica by the other's epoch until the next promotion.
    fn weight(&self, all: &[Self]) -> (u64, usize) {
        (self.epoch, all.iter().filter(|other| self.names_what(other)).count())
    }
}

impl Question {
    /// How many answers there have to be. A Sentinel may be cut off together with a former master. So may a node, but then that master
    /// refuses, because it sees too few others, and those that are named need not be all.
    fn needed(&self, asked: usize) -> usize {
        match self {
            Self::MasterCalled(_) => majority(asked),
            Self::MasterOf(_) => 1,
        }
    }
}

fn majority(of: usize) -> usize {
    of / 2 + 1
}

/// Asks all at once, and believes [`the_latest`] of the first majority that answers: a lost node's answer would have to be waited for. It is
/// waited for only where Sentinels have not settled who is the master.
pub(super) async fn ask_all(
    asked: &[ConnectionInfo],
    question: Question,
    tls: Option<&Tls>,
    patience: Duration,
) -> Result<Said, Lost> {
    let needed = question.needed(asked.len());
    let question = Arc::new(question);
    let mut answers = JoinSet::new();
    for server in asked {
        let (server, question, tls) = (server.clone(), question.clone(), tls.cloned());
        answers.spawn(async move { ask(server, &question, tls.as_ref(), patience).await });
    }
    let (mut said, mut why) = (Vec::new(), String::new());
    while let Some(answer) = answers.join_next().await {
        match answer.map_err(|error| Lost(error.to_string())).flatten() {
            Ok(answer) => said.push(answer),
            Err(error) => why = error.0,
        }
        if said.len() >= majority(asked.len()) && !(needed > 1 && is_open(&said)) {
            break;
        }
    }
    if said.len() < needed {
        let (some, all) = (said.len(), asked.len());
        return Err(Lost(match &*question {
            Question::MasterCalled(name) => format!("{some} of {all} Sentinels name a master called {name}: {why}"),
            Question::MasterOf(_) => format!("none of {all} nodes of the Redis Cluster names a master: {why}"),
        }));
    }
    the_latest(said).ok_or_else(|| Lost("nobody is asked".into()))
}

/// Of those who have heard of the latest promotion those are right who are more, and of these one may know that its master is down. If it stays open,
/// either is tried: the server is asked whether it is a master before anything is written.
fn the_latest(mut said: Vec<Said>) -> Option<Said> {
    let latest = (0..said.len()).max_by_key(|&one| (said[one].weight(&said), said[one].down))?;
    Some(said.swap_remove(latest))
}

/// Whether as many name one server by the latest promotion as name another.
fn is_open(said: &[Said]) -> bool {
    let most = said.iter().map(|one| one.weight(said)).max();
    let mut latest = said.iter().filter(|one| Some(one.weight(said)) == most);
    let first = latest.next();
    latest.any(|other| first.is_some_and(|first| !first.names_what(other)))
}

async fn ask(server: ConnectionInfo, question: &Question, tls: Option<&Tls>, patience: Duration) -> Result<Said, Lost> {
    let address = server.addr().to_string();
    let answer = match question {
        Question::MasterCalled(name) => ask_sentinel(server, name, tls, patience).await,
        Question::MasterOf(key) => ask_node(server, key, tls, patience).await,
    };
    answer.map_err(|error| Lost(format!("{address}: {error}")))
}

async fn ask_sentinel(
    sentinel: ConnectionInfo,
    master: &str,
    tls: Option<&Tls>,
    patience: Duration,
) -> Result<Said, Lost> {
    let opened = match open(sentinel.clone(), tls, patience).await {
        // The servers' password may be none of the Sentinel's, which then has none.
        Err(refused) if refused.of_password => {
            let without = sentinel.set_redis_settings(RedisConnectionInfo::default());
            open(without, tls, patience).await
        }
        other => other,
    };
    let mut connection = opened.map_err(|refused| refused.lost)?;
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("MASTER").arg(master);
    commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let (fields, address): (HashMap<String, String>, (String, u16)) =
        commands.query_async(&mut connection.commands).await?;
    by_sentinel(&fields, address).ok_or_else(|| Lost("an answer without the master's address".into()))
}

/// The address is that of the second question. While the Sentinel that leads a promotion still leads the other replicas away, it gives the new
/// epoch and the former master's fields in answer to the first, and only there.
fn by_sentinel(fields: &HashMap<String, String>, (host, port): (String, u16)) -> Option<Said> {
    let is_former = fields.get("ip")? != &host || fields.get("port")?.parse() != Ok(port);
    let is_down = fields.get("flags")?.split(',').any(|flag| flag == "o_down");
    Some(Said {
        epoch: fields.get("config-epoch")?.parse().ok()?,
        host,
        port,
        down: is_down && !is_former,
    })
}

async fn ask_node(node: ConnectionInfo, key: &str, tls: Option<&Tls>, patience: Duration) -> Result<Said, Lost> {
    let mut connection = open(node.clone(), tls, patience)
        .await
        .map_err(|refused| refused.lost)?;
    let mut commands = redis::pipe();
    commands.cmd("CLUSTER").arg("KEYSLOT").arg(key);
    commands.cmd("CLUSTER").arg("NODES");
    let answer: RedisResult<(u16, String)> = commands.query_async(&mut connection.commands).await;
    let (slot, nodes) = answer.map_err(|error| match error.to_string() {
        text if text.contains("cluster support disabled") => Lost("it is no Redis Cluster; write redis://".into()),
        text => Lost(text),
    })?;
    let said = by_node(&nodes, slot, tls.is_some());
    let mut said = said.ok_or_else(|| {
        Lost(format!(
            "slot {slot} is no master's; `redis-cli --cluster check {}` tells more",
            node.addr()
        ))
    })?;
    if said.host.is_empty() {
        // Its own address, as long as no other node has told it.
        said.host = match node.addr() {
            redis::ConnectionAddr::Tcp(host, _) => host.clone(),
            other => other.to_string(),
        };
    }
    Ok(said)
}

/// By the lines of `CLUSTER NODES`: id, address, flags, master, ping, pong, epoch, link, slots. A certificate counts for a name rather than for
/// an address, if the node has one.
fn by_node(nodes: &str, slot: u16, tls: bool) -> Option<Said> {
    let masters = nodes.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (address, flags, epoch) = (fields.nth(1)?, fields.next()?, fields.nth(3)?);
        if !fields.skip(1).any(|slots| has_slot(slots, slot)) {
            return None;
        }
        let (address, name) = address.split_once(',').unwrap_or((address, ""));
        let (ip, port) = address.split('@').next()?.rsplit_once(':')?;
        // Behind the name there may be more.
        let name = name.split(',').next().filter(|name| tls && !name.is_empty());
        Some(Said {
            epoch: epoch.parse().ok()?,
            host: name.unwrap_or(ip).into(),
            port: port.parse().ok()?,
            down: flags.split(',').any(|flag| flag == "fail"),
        })
    });
    masters.max_by_key(|said| said.epoch)
}

/// Whether `7` or `0-5460` has it. One that moves stands in brackets besides, at whom still has it.
fn has_slot(slots: &str, slot: u16) -> bool {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&slot),
        _ => false,
    }
}

async fn open(
    server: ConnectionInfo,
    tls: Option<&Tls>,
    patience: Duration,
) -> Result<Connection, connection::Refused> {
    let patience = Patience {
        connection: patience,
        answer: patience,
    };
    connection::open(server, tls, patience).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leads_a_promotion_names_the_new_master_and_not_that_the_former_is_down() {
        let fields = |flags: &str| {
            [
                ("ip", "10.0.0.1"),
                ("port", "6379"),
                ("config-epoch", "7"),
                ("flags", flags),
            ]
            .map(|(field, value)| (field.to_owned(), value.to_owned()))
            .into()
        };
        let leads = by_sentinel(&fields("master,o_down,failover_in_progress"), ("10.0.0.2".into(), 6379));
        let leads = leads.expect("good");
        assert_eq!((leads.host.as_str(), leads.epoch, leads.down), ("10.0.0.2", 7, false));
        let waits = by_sentinel(&fields("master,s_down,o_down"), ("10.0.0.1".into(), 6379)).expect("good");
        assert_eq!((waits.host.as_str(), waits.down), ("10.0.0.1", true));
    }

    #[test]
    fn of_sentinels_that_name_two_servers_by_one_promotion_those_are_right_who_are_more() {
        let said = |epoch, host: &str, down| Said {
            epoch,
            host: host.into(),
            port: 6379,
            down,
        };
        let one = || said(7, "10.0.0.1", false);
        let other = || said(7, "10.0.0.2", false);
        for order in [
            [one(), one(), other()],
            [one(), other(), one()],
            [other(), one(), one()],
        ] {
            assert!(!is_open(&order));
            assert_eq!(the_latest(order.into()), Some(one()));
        }
        assert!(is_open(&[one(), other()]), "the third has to be waited for");
        let former = || said(6, "10.0.0.2", true);
        assert!(!is_open(&[one(), former()]));
        assert_eq!(the_latest(vec![former(), one(), former()]), Some(one()));
        let down = || said(7, "10.0.0.1", true);
        assert!(!is_open(&[one(), down()]), "both name it");
        assert_eq!(the_latest(vec![down(), one()]), Some(down()));
    }

    /// As Redis 7.0 and 7.2 write them: names, and more, stand behind the address.
    const NODES: &str = "\
        07c37df 127.0.0.1:30004@31004,,tls-port=0 slave e7d1eec 0 1426238317239 4 connected\n\
        67ed2db 127.0.0.1:30002@31002,redis-2.example,tls-port=0 master - 0 1426238316232 2 connected 5461-9000 9002 [93-<-e7d1eec]\n\
        e7d1eec :30001@31001,redis-1.example myself,master - 0 0 5 connected 0-5460 9001 [93->-67ed2db]\n\
        292f8b3 ::1:30003@31003,redis-3.example master,fail - 1 2 3 disconnected 9003-16383\n\
        824fe11 127.0.0.1:30005@31005 master,nofailover - 0 2 1 connected 5461\n\
        ignored\n";

    #[test]
    fn a_node_names_the_master_that_has_the_slot_now() {
        let named = |slot, tls| by_node(NODES, slot, tls).map(|said| (said.host, said.port, said.epoch, said.down));
        let of = |host: &str, port, epoch, down| Some((host.to_owned(), port, epoch, down));
        assert_eq!(named(9002, false), of("127.0.0.1", 30002, 2, false));
        assert_eq!(named(9002, true), of("redis-2.example", 30002, 2, false));
        assert_eq!(named(93, false), of("", 30001, 5, false));
        assert_eq!(named(16383, false), of("::1", 30003, 3, true));
        assert_eq!(named(5461, false), of("127.0.0.1", 30002, 2, false));
        assert_eq!(
            by_node("67ed2db 127.0.0.1:1@2 master - 0 0 2 connected 0-3", 4, false),
            None
        );
    }
}
