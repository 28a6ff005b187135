-- Writes one view's value of some entities, each unless what is held stands at a later place. Answers how many were.
--
-- KEYS: entities; where the view has a hash of its own, each entity's follows it.
-- ARGV: view, place, event time, time to live (s), 1 if the view has a hash of its own, 1 if only what is held at an
-- earlier place is to go; then for each entity the number of texts that follow, and these: none, the value, or fields and
-- values of the own hash.
local view, place, time, ttl, apart, earlier = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', ARGV[6] == '1'
local place_field, time_field = '_pos:' .. view, '_ts:' .. view
local now = tonumber(time)
local at, written = 7, 0

-- GT takes a key without an expiry, as a new one is, for one that lives for ever; NX takes no other. What did it for the
-- entity before is tried first.
local first, second = 'GT', 'NX'
local function keep(key)
    if redis.call('EXPIRE', key, ttl, first) == 0 and redis.call('EXPIRE', key, ttl, second) == 1 then
        first, second = second, first
    end
end

for i = 1, #KEYS, apart and 2 or 1 do
    local entity, count = KEYS[i], tonumber(ARGV[at])
    local held = redis.call('HGET', entity, place_field)
    local write
    if not held then
        write = not earlier
    elseif held ~= place then
        write = held < place
    else
        local held_time = tonumber(redis.call('HGET', entity, time_field))
        write = held_time < now or held_time == now and not earlier
    end
    if write then
        if apart then
            local own = KEYS[i + 1]
            local left = redis.call('TTL', own)
            redis.call('DEL', own)
            if count > 0 then
                redis.call('HSET', own, unpack(ARGV, at + 1, at + count))
                redis.call('EXPIRE', own, math.max(left, tonumber(ttl)))
            end
            redis.call('HSET', entity, time_field, time, place_field, place)
        elseif count > 0 then
            redis.call('HSET', entity, view, ARGV[at + 1], time_field, time, place_field, place)
        else
            redis.call('HDEL', entity, view)
            redis.call('HSET', entity, time_field, time, place_field, place)
        end
        keep(entity)
        written = written + 1
    end
    at = at + count + 1
end
return written
