# Runs a command, tells its process id, and ends it when our input does: who started us has let go of it, or is gone.
exec 3<&0 </dev/null
"$@" >&2 3<&- &
service=$!
echo "$service"
exec >&2
(
    while read -r _; do :; done <&3
    # Not before a `sleep` of ours has ended.
    trap exit TERM
    kill -TERM "$service"
    # One that is paused hears of it once it goes on.
    kill -CONT "$service"
    turn=0
    while [ $turn -lt 100 ] && kill -0 "$service"; do
        sleep 0.1
        turn=$((turn + 1))
    done
    kill -KILL "$service"
) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$service"
kill "$watcher" 2>/dev/null
wait "$watcher"
