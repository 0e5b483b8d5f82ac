#include "decoder.h"

#include <algorithm>

#include "../team.h"
#include "attention.h"
#include "gemm.h"
#include "rowwise.h"

namespace tiercel::TIERCEL_ISA {
namespace {

int64_t padded(int64_t size) { return (size + 31) / 32 * 32; }

// Tokens of one task in the loops over tokens: few enough to share, enough to be worth taking.
int64_t tokens_per_task(int64_t num_tokens, int size) {
    return std::clamp<int64_t>(num_tokens / (8 * size), 1, 32);
}

template <typename Row>
void each_token(int64_t num_tokens, Team& team, const Row& row) {
    const int64_t count = tokens_per_task(num_tokens, team.size);
    team.share((num_tokens + count - 1) / count, [&](int64_t task) {
        const int64_t first = task * count;
        row(first, std::min(first + count, num_tokens));
    });
}

// A thread's way through the layers. Each step ends with a barrier.
class Pass {
public:
    Pass(const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
         const DecoderScratch& scratch, Team& team)
        : model_(model), kv_(kv), batch_(batch), work_(work), step_(step), scratch_(scratch), team_(team),
          normed_stride_(padded(model.hidden_size)), attended_stride_(padded(model.num_heads * model.head_dim)),
          activated_stride_(padded(model.intermediate_size)) {}

    void embed() {
        const int64_t size = model_.hidden_size;
        each_token(step_.num_tokens, team_, [&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token) {
                const bf16* row = model_.embedding + step_.token_ids[token] * size;
                float* hidden = step_.hidden + token * size;
                int64_t i = 0;
                for (; i + Vec::kLanes <= size; i += Vec::kLanes) Vec::load(row + i).store(hidden + i);
                for (; i < size; ++i) {
                    const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
                    std::memcpy(hidden + i, &bits, 4);
                }
            }
        });
        team_.barrier();
    }

    void layer(int64_t index) {
        const DecoderLayer& weights = model_.layers[index];
        norm(weights.input_norm);
        project_heads(weights);
        position_and_store(index, weights);
        const Heads q = heads(0), out{scratch_.attended, attended_stride_, model_.head_dim, Element::kBf16};
        attend(kv_, index, model_.num_heads, weights.window, batch_, work_, q, out, false, team_);
        team_.barrier();
        add(scratch_.attended, attended_stride_, weights.output);
        norm(weights.mlp_norm);
        multiply(scratch_.normed, normed_stride_, step_.num_tokens, weights.gate_up, team_,
                 [&](int64_t token, int64_t output, const float* sums) {
                     silu_mul(sums, sums + 16, scratch_.activated + token * activated_stride_ + output / 2);
                 });
        team_.barrier();
        add(scratch_.activated, activated_stride_, weights.down);
    }

private:
    void norm(const float* weight) {
        const int64_t size = model_.hidden_size;
        each_token(step_.num_tokens, team_, [&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token)
                rms_norm(step_.hidden + token * size, weight, model_.norm_eps, size,
                         scratch_.normed + token * normed_stride_);
        });
        team_.barrier();
    }

    void project_heads(const DecoderLayer& weights) {
        const int64_t stride = weights.qkv.num_outputs;
        qkv_stride_ = stride;
        multiply(scratch_.normed, normed_stride_, step_.num_tokens, weights.qkv, team_,
                 [&](int64_t token, int64_t output, const float* sums) {
                     std::memcpy(scratch_.qkv + token * stride + output, sums, kPanel * sizeof(float));
                 });
        team_.barrier();
    }

    void position_and_store(int64_t index, const DecoderLayer& weights) {
        const int64_t head_dim = model_.head_dim;
        const int64_t first_k = model_.num_heads, first_v = first_k + model_.num_kv_heads;
        const Heads k = heads(first_k), v = heads(first_v);
        each_token(step_.num_tokens, team_, [&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token) {
                float* row = scratch_.qkv + token * qkv_stride_;
                const int64_t rope_row = step_.rope_rows[token] * head_dim;
                for (int64_t head = 0; head < first_v; ++head) {
                    const float* norm = head < first_k ? weights.q_norm : weights.k_norm;
                    if (norm) rms_norm_in_place(row + head * head_dim, norm, model_.norm_eps, head_dim);
                    rotate(row + head * head_dim, step_.cos + rope_row, step_.sin + rope_row, head_dim);
                }
            }
            write_kv(kv_, index, batch_.write_slots, first, last, k, v);
        });
        team_.barrier();
    }

    void add(const bf16* x, int64_t stride, const PackedLinear& linear) {
        const int64_t size = model_.hidden_size;
        multiply(x, stride, step_.num_tokens, linear, team_,
                 [&](int64_t token, int64_t output, const float* sums) {
                     float* hidden = step_.hidden + token * size + output;
                     const int64_t count = std::min(kPanel, size - output);
                     int64_t i = 0;
                     for (; i + Vec::kLanes <= count; i += Vec::kLanes)
                         (Vec::load(hidden + i) + Vec::load(sums + i)).store(hidden + i);
                     for (; i < count; ++i) hidden[i] += sums[i];
                 });
        team_.barrier();
    }

    Heads heads(int64_t first) const {
        return {scratch_.qkv + first * model_.head_dim, qkv_stride_, model_.head_dim, Element::kFp32};
    }

    const Decoder& model_;
    const PagedKv& kv_;
    const AttnBatch& batch_;
    AttnWork& work_;
    const DecoderStep& step_;
    const DecoderScratch& scratch_;
    Team& team_;
    const int64_t normed_stride_, attended_stride_, activated_stride_;
    int64_t qkv_stride_ = 0;
};

}  // namespace

void decoder_forward(
    const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
    const DecoderScratch& scratch) {
    TeamState state;
#pragma omp parallel
    {
        Team team(state);
#if defined(TIERCEL_ISA_AMX)
        Tiles configured;
#endif
        Pass pass(model, kv, batch, work, step, scratch, team);
        pass.embed();
        for (int64_t index = 0; index < model.num_layers; ++index) pass.layer(index);
    }
}

void decoder_logits(const Decoder& model, const float* hidden, int64_t num_rows, uint16_t* normed, float* logits) {
    const int64_t size = model.hidden_size, stride = padded(size), outputs = model.lm_head.num_outputs;
    TeamState state;
#pragma omp parallel
    {
        Team team(state);
#if defined(TIERCEL_ISA_AMX)
        Tiles configured;
#endif
        each_token(num_rows, team, [&](int64_t first, int64_t last) {
            for (int64_t row = first; row < last; ++row)
                rms_norm(hidden + row * size, model.final_norm, model.norm_eps, size, normed + row * stride);
        });
        team.barrier();
        multiply(normed, stride, num_rows, model.lm_head, team,
                 [&](int64_t row, int64_t output, const float* sums) {
                     std::memcpy(logits + row * outputs + output, sums, kPanel * sizeof(float));
                 });
    }
}

}  // namespace tiercel::TIERCEL_ISA
