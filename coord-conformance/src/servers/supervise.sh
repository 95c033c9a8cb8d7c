# Runs a server, and ends it when standard input ends: when the process that started this script ends, however it ends.
#
# Arguments: the folder of the server, which is removed at the end; the signal that ends the server; the command, or
# nothing if the folder is all that there is to look after.
# Standard output: the server's process id; it then stays open in the server and what it starts, until the last ends.
# Standard input: `ended` if the server has ended already, `keep` if the folder is to stay besides.
folder=$1 signal=$2
shift 2
cd "$folder" || exit
# When the process that started this script ends and the server is stopped, the system hangs up on both.
trap '' HUP INT TERM

if [ $# -gt 0 ]; then
    "$@" 3>&1 >>log 2>&1 &
    server=$!
    echo "$server"
fi
exec >/dev/null

read -r word

if [ -z "$word" ] && [ $# -gt 0 ]; then
    # What is stopped would not see the signal.
    kill -s CONT "$server" $(cat "/proc/$server/task/$server/children" 2>/dev/null || pgrep -P "$server")
    kill -s "$signal" "$server"
fi
[ $# -eq 0 ] || wait "$server"
cd /
[ "$word" = keep ] || rm -rf "$folder"
