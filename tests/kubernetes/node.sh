# The first process of a node's own namespaces of processes, mounts and network, in
# the directory $1. When it ends, all of the node ends, mounts and interfaces too.
set -eu
dir=$1

mount --make-rshared /
# What the node's programs keep in fixed places, they keep below the directory.
for path in /var/lib /var/log /run; do
    mkdir -p "$dir$path"
    mount --bind "$dir$path" "$path"
done

# The kubelet sets parameters of the kernel, which belong to the whole machine. Here
# it finds them set as it wants them.
shadow() {
    mkdir -p "$(dirname "$dir/parameters/$1")"
    echo "$2" >"$dir/parameters/$1"
    mount --bind "$dir/parameters/$1" "/proc/sys/$1"
}
shadow vm/overcommit_memory 1
shadow vm/panic_on_oom 0
shadow kernel/panic 10
shadow kernel/panic_on_oops 1
shadow kernel/keys/root_maxkeys 1000000
shadow kernel/keys/root_maxbytes 25000000

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo ready

# Containers whose parents end become children of this process: wait for them too.
while :; do
    sleep 3600 &
    wait
done
