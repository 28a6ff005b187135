# Runs a command, tells its process id, and ends it when our input does: the one who started us is gone.
"$@" </dev/null >&2 3<&- &
service=$!
echo "$service"
exec >/dev/null
(
    cat <&3 >/dev/null
    kill -TERM "$service" 2>/dev/null
    sleep 10
    kill -KILL "$service" 2>/dev/null
) &
watcher=$!
exec 3<&-
wait "$service"
kill "$watcher" 2>/dev/null
