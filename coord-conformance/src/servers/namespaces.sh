# Makes hosts of their own on this machine, and removes them when standard input ends: when the process that started this
# script ends, however it ends.
#
# Arguments: the name of the network; the first three numbers of its addresses; the name of this machine's link to it; how many
# hosts. Host 0 has the address .1, this machine .254.
# Standard output: `ready`, when they are there.
name=$1 net=$2 here=$3 count=$4
hosts=
number=0
while [ "$number" -lt "$count" ]; do
    hosts="$hosts $number"
    number=$((number + 1))
done
trap '' HUP INT TERM
set -e

# Nobody else has this name, but somebody may have left it behind.
ip netns add "$name-switch"

remove() {
    ip link del "$here" || true
    for host in $hosts switch; do
        ip netns del "$name-$host" || true
    done
}
trap 'remove 2>/dev/null' EXIT

# The switch stands in a namespace too, where this machine's rules for packets that it passes on do not hold.
ip -n "$name-switch" link add bridge type bridge
ip -n "$name-switch" link set bridge up
ip link add "$here" type veth peer name uplink netns "$name-switch"
ip -n "$name-switch" link set uplink master bridge up
ip addr add "$net.254/24" dev "$here"
ip link set "$here" up
for host in $hosts; do
    ip netns add "$name-$host"
    ip -n "$name-$host" link set lo up
    ip -n "$name-$host" link add eth0 type veth peer name "port$host" netns "$name-switch"
    ip -n "$name-$host" addr add "$net.$((host + 1))/24" dev eth0
    ip -n "$name-$host" link set eth0 up
    ip -n "$name-switch" link set "port$host" master bridge up
done
echo ready
read -r _ || true
