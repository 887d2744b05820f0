//! To the containers: window, hold, and the way to a new owner.

use std::time::Duration;

use sip::{Edit, Index, Instant, Message, Method};
use transport::legs::{EDGE, INNER};
use ucf::PartitionId;
use ucf::flow::Flow;
use ucf::hold::Held;
use ucf::routing::Slot;
use ucf::window::Label;
use ucf::wire::{Body, Confirm, Ownership};

use super::Core;
use super::counters::{DropReason, Kind, Outcome};
use super::effects::{Effect, Effects};
use super::island::is_repeated;
use super::path::response_flow;
use super::refusal::Refusal;

/// How often containers may return a message before it is given up: each time it went to whom the table named.
const MAX_RETURNS: u8 = 50;

/// As how many returns the fall of a link counts for what had been written to it and not been confirmed: the third is the last. Should a
/// message be what its container falls over, it does not follow its partition round the cluster.
const FALL: u8 = 17;

/// How long a partition waits for its owner's announcement after its owner has returned a message. It may have been returned
/// only because the owner was not done with taking over when it came, and then no announcement follows.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long a partition that has another owner waits for the word of former ones on what they were sent, if they live: what they have dealt with
/// would be answered twice. A round trip, and the time of a busy machine; not longer, because a link may outlive its container for a while.
const WORD: Duration = Duration::from_millis(50);

/// Whoever has been silent for longer is not waited for.
const LIVELY: Duration = Duration::from_millis(250);

/// A partition that has moved, and waits for the word of those who owned it.
pub(super) struct Unaccounted {
    partition: PartitionId,
    /// Until when.
    pub(super) due: Instant,
}

/// Room that splices may take: two headers with a host name of at most 255 bytes and tokens each, and numbers.
const SPLICES: usize = 1024;

/// What the edge takes can be read within, whatever is added: nothing that a client sends ends the link of all the others.
const _: () = assert!(EDGE.message + SPLICES <= INNER.message && EDGE.headers + 4 <= INNER.headers);

impl Core {
    /// Sends an edited message to the partition's owner, be it through another proxy, or lets it wait for one.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        partition: PartitionId,
        message: &Message<'_>,
        edit: &Edit,
        effects: &mut Effects,
    ) -> Result<Outcome, Refusal> {
        if message.as_bytes().len() + SPLICES > INNER.message {
            return Err(Refusal::TOO_LARGE);
        }
        let label = Label {
            partition,
            came: now,
            order: self.next_order(),
            returns: 0,
            relayed: false,
        };
        let owner = self.routing.route(partition).settled();
        if let Some(slot) = owner
            && let Some(link) = self.containers.link_mut(slot)
        {
            if !link.window.has_room(message.as_bytes().len() + SPLICES) {
                return Err(Refusal::FULL);
            }
            link.window.append(now, label, |out| edit.apply_into(message, out));
            return Ok(Outcome::Forwarded);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        edit.apply_into(message, &mut buffer);
        let relayed = owner.is_some_and(|slot| self.relay(now, slot, label, &buffer, effects));
        let outcome = if relayed {
            Ok(Outcome::Forwarded)
        } else if self.hold.keep(now, label, &buffer) {
            Ok(Outcome::Held)
        } else {
            Err(Refusal::FULL)
        };
        self.buffer = buffer;
        outcome
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Tells a container which of its partitions are not taken for its own.
    pub(super) fn tell_unheard(&self, slot: Slot, announced: &Ownership, effects: &mut Effects) {
        let Some(link) = self.containers.link(slot) else { return };
        for fenced in self.routing.unheard(announced) {
            let (link, body) = (link.id, Body::Fenced(fenced));
            effects.push(Effect::Frame { link, body });
        }
    }

    /// A container tells what it owns: what waited goes on, and what another has not confirmed goes there too.
    pub(super) fn ownership(&mut self, now: Instant, announced: &Ownership, effects: &mut Effects) {
        let mut changes = Vec::new();
        self.routing.announced(announced, &mut changes);
        // A hand-over waits for its end, and what has been announced needs no second asking.
        if !self.returned.is_empty() {
            let announced = |partition: &PartitionId| {
                let number = u32::from(partition.0);
                announced.leaving.contains(&number) || announced.partitions.contains(&number)
            };
            self.returned.retain(|(_, partition)| !announced(partition));
        }
        if changes.is_empty() {
            return;
        }
        self.unaccounted.retain(|one| !changes.contains(&one.partition));
        let due = now + WORD;
        let moved = changes.into_iter().map(|partition| Unaccounted { partition, due });
        self.follow(now, moved.collect(), effects);
    }

    /// Partitions that have waited for the word of former owners go on once they have it, or it is late.
    pub(super) fn hear_word(&mut self, now: Instant, effects: &mut Effects) {
        if !self.unaccounted.is_empty() {
            let waiting = std::mem::take(&mut self.unaccounted);
            self.follow(now, waiting, effects);
        }
    }

    /// What waits for partitions that have moved goes to their new owners, what the former ones have not confirmed too; or all of it waits for
    /// these.
    fn follow(&mut self, now: Instant, moved: Vec<Unaccounted>, effects: &mut Effects) {
        let (waiting, over) = self.split_by_word(now, moved);
        for one in &waiting {
            self.routing.hold_back(one.partition, true);
        }
        self.unaccounted.extend(waiting);
        if over.is_empty() {
            return;
        }
        for one in &over {
            self.routing.hold_back(one.partition, false);
        }
        self.take_from_old_owners(now, &over, effects);
        self.release(now, effects);
    }

    /// First those of which somebody who lives and is not the owner has not said yet what became of all that it was sent; then the others.
    fn split_by_word(&self, now: Instant, moved: Vec<Unaccounted>) -> (Vec<Unaccounted>, Vec<Unaccounted>) {
        let mut unanswered = vec![false; self.routing.partitions()];
        // What was said while this worker stood still lies in its sockets: that silence is its own.
        for (slot, link) in self.containers.lively(now.min(self.next_heartbeat), LIVELY) {
            for partition in link.window.unanswered() {
                unanswered[usize::from(partition.0)] |= self.routing.route(partition).owner != Some(slot);
            }
        }
        moved
            .into_iter()
            .partition(|one| now < one.due && unanswered[usize::from(one.partition.0)])
    }

    /// Unconfirmed messages of partitions that have another owner now wait for their turn with those that are held.
    fn take_from_old_owners(&mut self, now: Instant, over: &[Unaccounted], effects: &mut Effects) {
        let mut moved = vec![false; self.routing.partitions()];
        for one in over {
            moved[usize::from(one.partition.0)] = true;
        }
        let mut taken = Vec::new();
        for (slot, link) in self.containers.links_with_slots_mut() {
            let wanted = |partition: PartitionId| {
                let moved = moved.get(usize::from(partition.0)).is_some_and(|moved| *moved);
                moved && self.routing.route(partition).owner != Some(slot)
            };
            link.window
                .take(wanted, |label, bytes| taken.push((label, bytes.to_vec())));
        }
        self.keep_all(now, taken, effects);
    }

    /// A container has confirmed messages, and returned some that are not its own.
    pub(super) fn confirm(&mut self, now: Instant, slot: Slot, confirm: &Confirm, effects: &mut Effects) {
        let Some(link) = self.containers.link_mut(slot) else {
            return;
        };
        let mut taken = Vec::new();
        for number in &confirm.returned {
            link.window.returned(*number, |label, bytes| {
                let returns = label.returns.saturating_add(1);
                taken.push((Label { returns, ..label }, bytes.to_vec()));
            });
        }
        confirm.kept.iter().for_each(|number| link.window.kept(*number));
        confirm.finished().for_each(|numbers| link.window.finished(numbers));
        link.window.confirm(confirm.upto);
        if taken.is_empty() {
            return self.hear_word(now, effects);
        }
        for (label, _) in &taken {
            // Whoever returns is not the owner, whatever was heard last; the owner will say so.
            if self.routing.route(label.partition).settled() == Some(slot) {
                self.routing.suspend(label.partition);
                self.returned.push((now + ASK_AGAIN, label.partition));
            }
        }
        self.keep_all(now, taken, effects);
        self.hear_word(now, effects);
        self.release(now, effects);
    }

    /// Asks the owners again that have returned messages and announced nothing since.
    pub(super) fn ask_again(&mut self, now: Instant, effects: &mut Effects) {
        let before = self.returned.len();
        let routing = &mut self.routing;
        self.returned.retain(|(due, partition)| {
            if *due <= now {
                routing.resume(*partition);
            }
            *due > now
        });
        if self.returned.len() < before {
            self.release(now, effects);
        }
    }

    /// The link to a container has closed: what it has not confirmed waits for the new owners.
    pub(super) fn fallen(&mut self, now: Instant, slot: Slot, effects: &mut Effects) {
        let Some(mut link) = self.containers.down(now, slot) else {
            return;
        };
        let mut unwritten = link.unwritten();
        let mut taken = Vec::new();
        link.window
            .take(|_| true, |label, bytes| taken.push((label, bytes.to_vec())));
        for (label, bytes) in taken.iter_mut().rev() {
            if bytes.len() > unwritten {
                label.returns = label.returns.saturating_add(FALL);
            }
            unwritten = unwritten.saturating_sub(bytes.len());
        }
        // As long as one proxy vouches for the container, nobody takes over from it.
        self.next_heartbeat = now;
        self.keep_all(now, taken, effects);
        self.hear_word(now, effects);
        self.release(now, effects);
    }

    pub(super) fn keep_all(&mut self, now: Instant, messages: Vec<(Label, Vec<u8>)>, effects: &mut Effects) {
        for (label, bytes) in messages {
            if self.leave_to_repetition(now, label, &bytes) {
                continue;
            }
            self.counters.rerouted += 1;
            if label.returns > MAX_RETURNS || !self.hold.keep(now, label, &bytes) {
                self.give_up(now, Refusal::FULL, label, &bytes, effects);
            }
        }
    }

    /// Sends all that waits and whose partition has an owner in reach, oldest first.
    pub(super) fn release(&mut self, now: Instant, effects: &mut Effects) {
        if self.hold.is_empty() {
            return;
        }
        let mut hold = std::mem::take(&mut self.hold);
        let released = hold.release(|label| {
            let owner = self.routing.route(label.partition).settled();
            let through_peer = |slot| !label.relayed && self.relayed(now, slot).is_some();
            owner.is_some_and(|slot| self.containers.link(slot).is_some() || through_peer(slot))
        });
        self.hold = hold;
        for Held { label, bytes, .. } in released {
            if self.leave_to_repetition(now, label, &bytes) {
                continue;
            }
            let owner = self.routing.route(label.partition).settled();
            let link = owner.and_then(|slot| self.containers.link_mut(slot));
            let sent = match (link, owner) {
                (Some(link), _) if link.window.has_room(bytes.len()) => {
                    link.window.append(now, label, |out| out.extend_from_slice(&bytes));
                    true
                }
                (None, Some(slot)) => self.relay(now, slot, label, &bytes, effects),
                _ => false,
            };
            if !sent {
                self.give_up(now, Refusal::FULL, label, &bytes, effects);
            }
        }
    }

    /// Gives up what has waited too long.
    pub(super) fn expire_held(&mut self, now: Instant, effects: &mut Effects) {
        for held in self.hold.expire(now) {
            if self.leave_to_repetition(now, held.label, &held.bytes) {
                continue;
            }
            self.give_up(now, Refusal::LATE, held.label, &held.bytes, effects);
        }
    }

    // ---- answers ----

    /// Answers a client's request, or counts it where no answer is allowed (ACK), or where it is left to its repetition.
    pub(super) fn refuse(
        &mut self,
        kind: Kind,
        refusal: Refusal,
        message: &Message<'_>,
        source: &Flow,
        edit: &mut Edit,
        effects: &mut Effects,
    ) {
        if self.is_cut_off() && refusal.is_of_this_proxy() && is_repeated(message, source.transport) {
            self.counters.count(kind, Outcome::Dropped);
            return self.counters.drop(DropReason::Apart);
        }
        let via = message.via().filter(|_| !matches!(message.method(), Method::Ack));
        let Some(via) = via else {
            self.counters.count(kind, Outcome::Dropped);
            return self.counters.drop(refusal.drop);
        };
        let to = response_flow(*source, &via);
        // The answer's Via has what s18.2.1 adds to the request's.
        edit.clear();
        // First: what both add may stand at the Via's end.
        edit.set_overload_control(message, &via, self.overload);
        edit.set_received(message, source.remote);
        self.buffer.clear();
        edit.apply_into(message, &mut self.buffer);
        let mut index = Index::new();
        if index.scan(&self.buffer, &INNER).is_err() {
            return self.counters.drop(DropReason::Malformed);
        }
        let random = self.random();
        let request = Message::new(&self.buffer, &index);
        self.send(to, effects, |out| {
            refusal.write(out, &request, &self.config.keyring, random);
        });
        self.counters.count(kind, Outcome::Answered);
        self.counters.answer(refusal.status);
    }

    /// Gives a message up that was on its way to a container: a request is answered by way of its own Vias, unless it is left to its repetition.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        refusal: Refusal,
        label: Label,
        bytes: &[u8],
        effects: &mut Effects,
    ) {
        if self.is_left_to_repetition(label.came, bytes) {
            return self.counters.drop(DropReason::Apart);
        }
        let Some(answer) = self.answer_to(refusal, bytes) else {
            return self.counters.drop(refusal.drop);
        };
        let mut index = Index::new();
        let sent = match index.scan(&answer, &INNER) {
            Ok(()) => {
                let answer = Message::new(&answer, &index);
                let mut vias = answer.vias();
                let vias = (vias.next(), vias.next());
                self.respond(now, &answer, vias, &mut Edit::new(), effects)
            }
            Err(_) => Err(DropReason::Malformed),
        };
        match sent {
            Ok(()) => self.counters.answer(refusal.status),
            Err(why) => self.counters.drop(why),
        }
    }

    /// Answers a container's request, through its partition's owner.
    pub(super) fn refuse_container(
        &mut self,
        now: Instant,
        refusal: Refusal,
        message: &Message<'_>,
        partition: Option<PartitionId>,
        effects: &mut Effects,
    ) {
        let (Some(partition), Some(answer)) = (partition, self.answer_to(refusal, message.as_bytes())) else {
            return;
        };
        let mut index = Index::new();
        if index.scan(&answer, &INNER).is_ok() {
            let answer = Message::new(&answer, &index);
            if self.deliver(now, partition, &answer, &Edit::new(), effects).is_ok() {
                self.counters.answer(refusal.status);
            }
        }
    }

    /// The answer to a request as it stands; none to a response or an ACK.
    pub(super) fn answer_to(&mut self, refusal: Refusal, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut index = Index::new();
        index.scan(bytes, &INNER).ok()?;
        let message = Message::new(bytes, &index);
        if message.is_response() || message.method() == Method::Ack {
            return None;
        }
        let mut answer = Vec::new();
        let random = self.random();
        refusal.write(&mut answer, &message, &self.config.keyring, random);
        Some(answer)
    }
}
