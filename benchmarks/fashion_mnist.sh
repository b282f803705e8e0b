#!/usr/bin/env bash
# The study in the README: every core paradigm on Fashion-MNIST, three seeds each, under one budget and one evaluation.
# Two runs at a time with one thread each; about 75 minutes on 2 cores. Arguments are added to every `test`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python} OMP_NUM_THREADS=1

if [ -e lightning_logs/vae ]; then
    echo "lightning_logs has runs already: move it away, so that version_N is seed N." >&2
    exit 1
fi

runs() {
    cat <<'RUNS'
ae ae
ae_zeros ae_zeros
decoder decoder
vae vae
vae_noenc vae_noenc
fixed vae_noenc --model.latents=fixed
k8 vae_noenc --model.num_prior_samples=8
k64 vae_noenc --model.num_prior_samples=64
k512 vae_noenc --model.num_prior_samples=512
energy_score energy_score
RUNS
}

# name, config and settings of a run -> lightning_logs/NAME/version_SEED
train='$PYTHON -m encdec fit --config "configs/$1.yaml" --config configs/data/fashion_mnist.yaml \
    --name "$0" --trainer.enable_progress_bar=false "${@:2}"'
for seed in 0 1 2; do
    # a round for each seed, so that version_N is seed N
    runs | sed "s/$/ --seed_everything=$seed/" | xargs -P 2 -L 1 bash -c "$train"
done

for seed in 0 1 2; do
    runs | while read -r name _; do
        echo "--ckpt_path lightning_logs/$name/version_$seed/checkpoints/last.ckpt"
    done
done | xargs -P 2 -L 1 "$PYTHON" -m encdec test "$@"
