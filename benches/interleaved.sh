#!/usr/bin/env bash
# Holds two builds of a bench against each other: runs them in turn, and prints the median of new / old with its 95 % interval.
#
#   benches/interleaved.sh BENCH OLD NEW [PAIRS]
#
# BENCH is mixdown, relay_machine, relay_loop or relay_loop-tape; OLD and NEW are the bench's binaries (`cargo bench --no-run`
# prints where they are); PAIRS is 15 unless given, and which of the two goes first changes from pair to pair. Every figure is a time: above 1
# the new build is slower. The interval is that of the order statistics of the pairs' ratios, so it assumes nothing of how noise is spread.
# Run it on a machine of at least two CPUs that has nothing else to do. relay_loop needs root.
set -euo pipefail
if (($# < 3)); then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
bench=$1 old=$2 new=$3 pairs=${4:-15}

# Prints one line `NAME SECONDS-OR-NANOSECONDS` a figure.
run() {
    case $bench in
    mixdown) "$1" | awk '/^round/ { for (i = 1; i < NF; i++) if ($i == "in") { if (!n++ || $(i + 1) < best) best = $(i + 1) } }
            /^ogg/ { for (i = 1; i < NF; i++) if ($(i + 1) == "times") print "ogg_of_" $3, 1 / $i }
            END { print "mixdown", best }' ;;
    relay_machine) "$1" --bench --noplot --sample-size 20 --warm-up-time 0.5 --measurement-time 1 2>/dev/null | awk '/time:/ && !/change:/ {
            scale = $(NF - 2) ~ /^ps/ ? 1e-3 : $(NF - 2) ~ /^ns/ ? 1 : $(NF - 2) ~ /^(µs|us)/ ? 1e3 : 1e6
            name = $1 == "time:" ? last : $1
            for (i = 1; i <= NF; i++) if ($i == "time:") print name, $(i + 3) * scale }
            { last = $1 }' ;;
    relay_loop | relay_loop-tape)
        local contender=ring
        [[ $bench == relay_loop-tape ]] && contender=ring-tape
        RELAY_CONTENDERS=$contender RELAY_SECONDS=${RELAY_SECONDS:-3} RELAY_RATES=${RELAY_RATES:-60000,100000,max} RELAY_ROUNDS=1 "$1" --bench |
            awk -v contender=$contender 'tolower($1) ~ /^ring/ && $2 ~ /^(max|[0-9]+)$/ { print $2 "_ns_thread", $7 }' ;;
    *) echo "interleaved.sh: no bench is called $bench" >&2; exit 2 ;;
    esac
}

results=$(mktemp)
trap 'rm -f "$results"' EXIT
for ((pair = 1; pair <= pairs; pair++)); do
    order=(old new)
    ((pair % 2)) || order=(new old)
    for which in "${order[@]}"; do
        run "${!which}" | awk -v pair="$pair" -v which="$which" '{ print pair, which, $1, $2 }' >>"$results"
    done
done

sort -k3,3 -k1,1n "$results" | awk -v wanted="$pairs" '
    { if (!($3 in seen)) { seen[$3] = 1; names[++count] = $3 } value[$3, $1, $2] = $4 }
    # Largest k for which the chance that the median lies outside of the k-th lowest and k-th highest of n is at most 5 %.
    function rank(n,    k, sum, term, i) {
        term = 0.5 ^ n; sum = 0
        for (k = 0; k < n / 2; k++) { if (2 * (sum + term) > 0.05) return k; sum += term; term *= (n - k) / (k + 1) }
        return k
    }
    END {
        printf "%-40s %5s %12s %12s %8s  %s\n", "figure", "pairs", "old", "new", "new/old", "95 %"
        for (f = 1; f <= count; f++) {
            n = 0
            for (pair = 1; pair <= wanted; pair++) {
                o = value[names[f], pair, "old"]; w = value[names[f], pair, "new"]
                if (o > 0 && w > 0) { ++n; ratio[n] = w / o; olds[n] = o; news[n] = w }
            }
            if (!n) continue
            order(ratio, n); order(olds, n); order(news, n)
            k = rank(n)
            low = k ? sprintf("%.3f", ratio[k]) : "-"; high = k ? sprintf("%.3f", ratio[n + 1 - k]) : "-"
            printf "%-40s %5d %12.6g %12.6g %8.3f  %s to %s\n", names[f], n, middle(olds, n), middle(news, n), middle(ratio, n), low, high
        }
    }
    function order(a, n,    i, j, x) {
        for (i = 2; i <= n; i++) { x = a[i]; for (j = i - 1; j > 0 && a[j] > x; j--) a[j + 1] = a[j]; a[j + 1] = x }
    }
    function middle(a, n) { return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2 }'
