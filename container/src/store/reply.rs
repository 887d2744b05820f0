//! From Redis's values to the answers of `ucf::store`.

use bytes::Bytes;
use prost::Message as _;
use redis::{FromRedisValue, Value};
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use ucf::store::{Era, MemberRecord, StoreReply, StoreRequest, StoredMember, StoredOwner};
use ucf::{Epoch, Incarnation, PartitionId};

use super::{Answer, Lost, MemberValue};
use crate::engine::WriteOutcome;

type Values<'a> = &'a mut dyn Iterator<Item = Value>;

/// Takes the values of one request.
pub(super) fn answer(request: &StoreRequest, run_id: u64, values: Values<'_>) -> Result<Answer, Lost> {
    let reply = match request {
        StoreRequest::Join { .. } | StoreRequest::Renew { .. } => {
            let list = take(values)?;
            let full = read::<i64>(take(values)?)? == 0;
            members(list, run_id, full)?
        }
        StoreRequest::Remove { .. } => StoreReply::Removed(read::<i64>(take(values)?)? == 1),
        StoreRequest::Inspect { partitions } => StoreReply::Owners(
            partitions
                .iter()
                .map(|partition| inspected(*partition, take(values)?))
                .collect::<Result<_, _>>()?,
        ),
        StoreRequest::Claim { partition, .. } => claimed(*partition, take(values)?)?,
        StoreRequest::Write(write) => written(write.partition, take(values)?)?,
        StoreRequest::Mark { partition, .. } => done(*partition, take(values)?, StoreReply::Marked)?,
        StoreRequest::Withdraw { partition, .. } => done(*partition, take(values)?, StoreReply::Withdrawn)?,
    };
    Ok(Answer {
        reply,
        records: Vec::new(),
    })
}

/// The token that stood when a script of `count` writes ended (or nothing), and how each went; `None`: none was done, the script came late.
pub(super) fn outcomes(value: Value, count: usize) -> Result<Option<(String, Vec<WriteOutcome>)>, Lost> {
    let mut parts = array(value)?.into_iter();
    let token: String = read(take(&mut parts)?)?;
    if token == "late" {
        return Ok(None);
    }
    let mut outcomes = vec![WriteOutcome::Written; count];
    for odd in array(take(&mut parts)?)? {
        let mut parts = array(odd)?.into_iter();
        let index: usize = read(take(&mut parts)?)?;
        let word: String = read(take(&mut parts)?)?;
        let outcome = outcomes
            .get_mut(index)
            .ok_or_else(|| Lost("an answer to no write".into()))?;
        *outcome = match word.as_str() {
            "behind" => WriteOutcome::Behind,
            "refused" => {
                let StoredOwner { owner, epoch, .. } = owner(PartitionId(0), &mut parts)?;
                WriteOutcome::Stale { owner, epoch }
            }
            _ => WriteOutcome::Written,
        };
    }
    Ok(Some((token, outcomes)))
}

/// Token and generation as they stand in a fence.
pub(super) fn fence(value: Option<Value>) -> Result<(Option<String>, Option<String>), Lost> {
    let mut parts = array(value.unwrap_or(Value::Nil))?.into_iter();
    Ok((read(take(&mut parts)?)?, read(take(&mut parts)?)?))
}

fn written(partition: PartitionId, value: Value) -> Result<StoreReply, Lost> {
    let mut parts = array(value)?.into_iter().skip(1);
    let Some(odd) = array(take(&mut parts)?)?.into_iter().next() else {
        return Ok(StoreReply::Written { behind: false });
    };
    let mut parts = array(odd)?.into_iter().skip(1);
    match read::<String>(take(&mut parts)?)?.as_str() {
        "behind" => Ok(StoreReply::Written { behind: true }),
        "repeated" => Ok(StoreReply::Repeated),
        _ => refused(partition, &mut parts),
    }
}

fn claimed(partition: PartitionId, value: Value) -> Result<StoreReply, Lost> {
    let mut parts = array(value)?.into_iter();
    if read::<String>(take(&mut parts)?)? != "claimed" {
        return refused(partition, &mut parts);
    }
    let epoch = Epoch(read(take(&mut parts)?)?);
    Ok(StoreReply::Claimed { epoch })
}

fn done(partition: PartitionId, value: Value, reply: StoreReply) -> Result<StoreReply, Lost> {
    let mut parts = array(value)?.into_iter();
    if read::<String>(take(&mut parts)?)? == "done" {
        Ok(reply)
    } else {
        refused(partition, &mut parts)
    }
}

fn refused(partition: PartitionId, parts: Values<'_>) -> Result<StoreReply, Lost> {
    Ok(StoreReply::Refused(owner(partition, parts)?))
}

fn inspected(partition: PartitionId, value: Value) -> Result<StoredOwner, Lost> {
    owner(partition, &mut array(value)?.into_iter())
}

fn owner(partition: PartitionId, parts: Values<'_>) -> Result<StoredOwner, Lost> {
    let owner = incarnation(take(parts)?)?;
    let epoch = read::<Option<String>>(take(parts)?)?
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or_default();
    let target = incarnation(take(parts)?)?;
    Ok(StoredOwner {
        partition,
        owner,
        epoch: Epoch(epoch),
        target,
    })
}

fn members(value: Value, run_id: u64, full: bool) -> Result<StoreReply, Lost> {
    let mut parts = array(value)?.into_iter();
    let (records, counters) = (pairs(take(&mut parts)?)?, pairs(take(&mut parts)?)?);
    let stored = |name: &[u8]| {
        counters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    };
    let mut hasher = SipHasher13::new();
    hasher.write_u64(run_id);
    hasher.write(stored(b"era").unwrap_or_default());
    let era = Era(hasher.finish());
    if parts.next().is_some() {
        return Ok(StoreReply::NotListed { era });
    }
    // A record that cannot be read is of a member that this version cannot speak with either.
    let members = records
        .iter()
        .filter_map(|(key, value)| member(key, value, stored(key)))
        .collect();
    Ok(StoreReply::Members { members, era, full })
}

fn member(key: &[u8], value: &Bytes, counter: Option<&[u8]>) -> Option<StoredMember> {
    let incarnation = parse_hex(key)?;
    let value = MemberValue::decode(value.clone()).ok()?;
    let weight = u16::try_from(value.weight).ok()?;
    let record = MemberRecord {
        incarnation,
        name: value.name,
        sip: value.sip,
        ucf: value.ucf,
        weight,
    };
    let counter = std::str::from_utf8(counter?).ok()?.parse().ok()?;
    Some(StoredMember { record, counter })
}

fn incarnation(value: Value) -> Result<Option<Incarnation>, Lost> {
    Ok(read::<Option<String>>(value)?.and_then(|text| parse_hex(text.as_bytes())))
}

fn parse_hex(text: &[u8]) -> Option<Incarnation> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16)
        .ok()
        .map(Incarnation)
}

/// Keys and values of a hash.
pub(super) fn pairs(value: Value) -> Result<Vec<(Bytes, Bytes)>, Lost> {
    let mut values = array(value)?.into_iter();
    let mut pairs = Vec::with_capacity(values.len() / 2);
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        pairs.push((bytes(key)?, bytes(value)?));
    }
    Ok(pairs)
}

fn bytes(value: Value) -> Result<Bytes, Lost> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        other => Err(unexpected(&other)),
    }
}

fn array(value: Value) -> Result<Vec<Value>, Lost> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        other => Err(unexpected(&other)),
    }
}

fn take(values: Values<'_>) -> Result<Value, Lost> {
    values.next().ok_or_else(|| Lost("an answer is too short".into()))
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Lost> {
    redis::from_redis_value(value).map_err(|error| Lost(error.to_string()))
}

fn unexpected(value: &Value) -> Lost {
    Lost(format!("unexpected answer {value:?}"))
}
