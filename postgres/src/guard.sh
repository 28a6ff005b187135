# Keeps one PostgreSQL running for as long as somebody holds the FIFO open for writing.
# Arguments: folder for the server's state, FIFO, file for acknowledgements, then the server's command.
# Standard input is a locked file: as every process of this tree inherits it, the lock tells that one still lives.
exec 3<&0 </dev/null
state=$1 running=$1/running fifo=$2 acknowledged=$3 pid=
shift 3

start() {
    [ -e "$running" ] && return
    : >"$running"
    {
        "$@" &
        echo $! >"$running"
        wait $!
        rm -f "$running"
    } &
    # Empty until the server's process exists, gone as soon as it has ended.
    while [ -e "$running" ] && [ ! -s "$running" ]; do sleep 0.01; done
    pid=$(cat "$running" 2>/dev/null)
}

# Without its folder, the file no longer tells.
is_up() {
    if [ -d "$state" ]; then [ -e "$running" ]; else kill -0 "$pid"; fi
}

# Fast shutdown; after 20 s the immediate one, which costs a recovery at the next start.
stop() {
    turn=0
    while is_up; do
        if [ $turn -lt 400 ]; then kill -INT "$pid"; else kill -QUIT "$pid"; fi
        turn=$((turn + 1))
        sleep 0.05
    done 2>/dev/null
}

rm -f "$running"
while read -r command token; do
    [ "$command" = restart ] && [ -n "$pid" ] && stop
    start "$@"
    echo "$token" >>"$acknowledged"
done <"$fifo"
[ -n "$pid" ] && stop
