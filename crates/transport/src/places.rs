//! Places for connections of peers that have not said who they are: a bounded number, and who holds on in silence gives way to who comes.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::error::{Error, Result};

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    most: usize,
    held: Rc<RefCell<VecDeque<Held>>>,
}

#[derive(Debug)]
struct Held {
    by: SocketAddr,
    lost: Rc<Notify>,
}

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Rc<RefCell<VecDeque<Held>>>,
    peer: SocketAddr,
    lost: Rc<Notify>,
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: Rc::default(),
        }
    }

    /// A place for a connection that has been accepted. If there is none, whichever address holds most of them gives up its oldest: a peer of the
    /// cluster says who it is within milliseconds, and so many come meanwhile from nobody.
    pub fn take(&self, peer: SocketAddr) -> Place {
        let mut held = self.held.borrow_mut();
        let lost = Rc::new(Notify::new());
        held.push_back(Held {
            by: peer,
            lost: lost.clone(),
        });
        if held.len() > self.most
            && let Some(held) = oldest_of_most(&held).and_then(|at| held.remove(at))
        {
            held.lost.notify_one();
        }
        Place {
            of: self.held.clone(),
            peer,
            lost,
        }
    }
}

fn oldest_of_most(held: &VecDeque<Held>) -> Option<usize> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for held in held {
        *counts.entry(held.by.ip()).or_default() += 1;
    }
    let most = counts.values().max()?;
    held.iter().position(|held| counts.get(&held.by.ip()) == Some(most))
}

impl Place {
    /// Lets the peer say who it is as long as the place is held; after that it needs none.
    ///
    /// # Errors
    /// Those of `greeting`, and that the place was lost.
    pub async fn during<T>(self, greeting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            greeted = greeting => greeted,
            () = self.lost.notified() => Err(Error::network(
                format!("tcp:{} has not said who it is, and others wait to", self.peer),
                std::io::ErrorKind::TimedOut.into(),
            )),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.borrow_mut().retain(|held| !Rc::ptr_eq(&held.lost, &self.lost));
    }
}
