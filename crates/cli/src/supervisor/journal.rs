//! What has happened, for whoever listens: the terminal or log of the supervisor, and the commands that wait for something.

use crate::detach::Audience;
use crate::state_dir::Entry;

/// Entries that are kept for commands; they look twenty times a second.
const KEPT: usize = 64;

/// The supervisor's words.
#[derive(Debug)]
pub struct Journal<'a> {
    audience: &'a mut Audience,
    last: Vec<Entry>,
    count: u64,
}

impl<'a> Journal<'a> {
    /// A journal that is read out to `audience`.
    pub fn new(audience: &'a mut Audience) -> Self {
        Self {
            audience,
            last: Vec::new(),
            count: 0,
        }
    }

    /// Says something now, and to commands that look later.
    pub fn say(&mut self, text: &str) {
        self.audience.say(text);
        if self.last.len() == KEPT {
            self.last.remove(0);
        }
        self.count += 1;
        self.last.push(Entry {
            number: self.count,
            text: text.to_owned(),
        });
    }

    /// The last entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.last
    }

    /// To whom it is read out.
    pub fn audience(&mut self) -> &mut Audience {
        self.audience
    }
}
