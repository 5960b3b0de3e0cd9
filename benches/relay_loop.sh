#!/bin/sh
# Repeats the relay bench and prints its table and ratios. RELAY_ROUNDS (3), RELAY_SECONDS (4), RELAY_RATES
# (60000,100000,max), RELAY_CONTENDERS (ring,plain,floor,rtpengine; also ring-unconnected), RELAY_BATCH (64), RELAY_WAIT_US
# (400), RELAY_HOT (1024). Run it as root on a machine of at least two CPUs that has nothing else to do: 'foreign' is what
# disturbed CPU 0 before each run. Where that cannot be had, `chrt -f 10 benches/relay_loop.sh` (after a build) gives all
# contenders the same precedence, and the figures by threads are the ones to read.
set -eu
cd "$(dirname "$0")/.."
RELAY_ROUNDS="${RELAY_ROUNDS:-3}" exec cargo bench --bench relay_loop
