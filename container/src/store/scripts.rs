//! The scripts: what `ucf::store` means, in Lua. Each calls Redis as few times as it can: a call costs about half a microsecond of the one core
//! there is.
//!
//! Whatever replaces an owner or an epoch deletes the former owner's token in its fence, on which plain writes rest. A fence that may
//! expire, because its member is not listed, holds no token, so nothing rests on what a server makes of a watched key that expires. That
//! comes before anything else: while a Redis Cluster moves its keys to another master, a script may end at a fence that has moved already.
//!
//! Leases and claims (and what belongs to them) run even when the server is out of memory; `write` does not, and `room` tells.
//!
//! Replies are arrays whose first element is a word; a refusal carries owner, epoch and target as stored.

/// `KEYS` members, counters; `ARGV` incarnation, record, a random number in case the data has none.
pub const JOIN: &str = r"#!lua flags=allow-oom
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], '0')
redis.call('HSETNX', KEYS[2], 'era', ARGV[3])
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
";

/// `KEYS` members, counters; `ARGV` incarnation, counter, a random number in case the data has none.
pub const RENEW: &str = r"#!lua flags=allow-oom
redis.call('HSETNX', KEYS[2], 'era', ARGV[3])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return {{}, redis.call('HGETALL', KEYS[2]), 'unlisted'}
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
";

/// `KEYS` members, counters; `ARGV` incarnation, counter or nothing, what keys of fences begin with. The fence's generations
/// stay as long as a packet of a dead connection might.
pub const REMOVE: &str = r"#!lua flags=allow-oom
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', ARGV[3] .. ARGV[1], 'token')
redis.call('EXPIRE', ARGV[3] .. ARGV[1], 3600)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
";

/// `KEYS` owner; `ARGV` member, expected owner or nothing, lowest epoch, `1` for a target, what keys of fences
/// begin with.
pub const CLAIM: &str = r"#!lua flags=allow-oom
local s = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'target')
local owner, epoch = s[1] or '', tonumber(s[2] or '0')
if owner ~= ARGV[2] or (ARGV[4] == '1' and s[3] ~= ARGV[1]) then
  return {'refused', owner, s[2] or '0', s[3] or ''}
end
epoch = math.max(epoch + 1, tonumber(ARGV[3]))
epoch = string.format('%.0f', epoch)
if s[1] then redis.call('HDEL', ARGV[5] .. owner, 'token') end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch, 'seq', '0')
if s[3] then redis.call('HDEL', KEYS[1], 'target') end
return {'claimed', epoch}
";

/// `KEYS` owner; `ARGV` member, epoch, target (nothing: withdraw).
pub const TARGET: &str = r"#!lua flags=allow-oom
local s = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'target')
if s[1] ~= ARGV[1] or s[2] ~= ARGV[2] then
  return {'refused', s[1] or '', s[2] or '0', s[3] or ''}
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], 'target')
else
  redis.call('HSET', KEYS[1], 'target', ARGV[3])
end
return {'done'}
";

/// `KEYS` the member's fence, members; `ARGV` member, link, generation. From here on the link's former connection can write nothing.
pub const REGISTER: &str = r"
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'token')
  redis.call('EXPIRE', KEYS[1], 3600)
end
return 1
";

/// `KEYS` the member's fence, members, then owner and records of each write; `ARGV` member, link, generation (nothing: any), a token in
/// case there is none, what keys of fences begin with, then of each write: epoch, running number, `1` to drop all records first, how
/// many to set, how many to delete, keys and values to be set, keys to be deleted.
///
/// The reply is `late`, and nothing was done, if the generation is another one; else the token as it stands after the writes (or
/// nothing), and the writes that did not go as usual, by number from 0 and word. Lua's stack bounds how much one call unpacks.
pub const WRITE: &str = r"
local K, A, call = KEYS, ARGV, redis.call
local member, generation, at, odd = A[1], A[3], 6, {}
if generation ~= '' and call('HGET', K[1], A[2]) ~= generation then return {'late'} end
local function each(command, key, first, last)
  for i = first, last, 2000 do call(command, key, unpack(A, i, math.min(i + 1999, last))) end
end
for i = 3, #K, 2 do
  local o, epoch, seq, sets, dels = K[i], A[at], A[at + 1], tonumber(A[at + 3]), tonumber(A[at + 4])
  local s = call('HMGET', o, 'owner', 'epoch', 'seq')
  local go
  if s[2] == epoch and s[1] == member then
    if tonumber(seq) > tonumber(s[3]) then
      go = true
      call('HSET', o, 'seq', seq)
    else
      odd[#odd + 1] = {(i - 3) / 2, 'repeated'}
    end
  elseif not s[1] or tonumber(s[2]) < tonumber(epoch) then
    go = true
    if s[1] then call('HDEL', A[5] .. s[1], 'token') end
    call('HSET', o, 'owner', member, 'epoch', epoch, 'seq', seq)
    call('HDEL', o, 'target')
    odd[#odd + 1] = {(i - 3) / 2, 'behind'}
  else
    odd[#odd + 1] = {(i - 3) / 2, 'refused', s[1], s[2], call('HGET', o, 'target') or ''}
  end
  local first = at + 5
  local last = first + 2 * sets
  if go then
    if A[at + 2] == '1' then call('DEL', K[i + 1]) end
    each('HDEL', K[i + 1], last, last + dels - 1)
    each('HSET', K[i + 1], first, last - 1)
  end
  at = last + dels
end
if generation == '' then return {'', odd} end
local token = call('HGET', K[1], 'token')
if not token and call('HEXISTS', K[2], member) == 1 then
  token = A[4]
  call('HSET', K[1], 'token', token)
  call('PERSIST', K[1])
end
return {token or '', odd}
";

/// `KEYS` one of its own. 1, if the server has room for records.
pub const ROOM: &str = r"
local done = redis.pcall('SET', KEYS[1], '')
return done.err and 0 or 1
";

/// All of them, to be loaded on every new connection.
pub const ALL: [&str; 8] = [JOIN, RENEW, REMOVE, CLAIM, TARGET, REGISTER, WRITE, ROOM];
