#include "decoder.h"

#include <algorithm>
#include <vector>

#include "../team.h"
#include "attention.h"
#include "gemm.h"
#include "quantize.h"
#include "rowwise.h"

namespace tiercel::TIERCEL_ISA {
namespace {

// Tokens of which one thread computes everything between two layers' attention, while it stays in its second cache.
constexpr int64_t kBlockTokens = 256;

constexpr int64_t kOperandBytes = sizeof(Operand);

// Of a thread. Below, the threads share each product, since every one of them would otherwise read all weights; those of
// int8 are half as many bytes, so that reading them twice is sooner less than handing each other all results.
constexpr int64_t kMinBlockTokens = 160, kMinBlockTokensInt8 = 64;

// Lines of weights that are asked for with each token between products.
constexpr int64_t kTokenLines = 32;

// Tokens [first, last), computed by a team; `row` is where the first one stands in what lies between two products.
struct Range {
    int64_t first, last, row;
    Team& team;

    int64_t size() const { return last - first; }

    template <typename Each>
    void each_token(const Each& each) const {
        const int64_t step = std::clamp<int64_t>(size() / (8 * team.size), 1, 32);
        team.share((size() + step - 1) / step, [&](int64_t task) {
            const int64_t start = first + task * step, end = std::min(start + step, last);
            each(start, end);
        });
    }
};

class Pass {
public:
    Pass(const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
         const DecoderScratch& scratch, const PackedLinear* const* products, Team& team)
        : model_(model), kv_(kv), batch_(batch), work_(work), step_(step), scratch_(scratch), team_(team),
          is_quantized_(model.layers[0].qkv.scales != nullptr), normed_stride_(row_stride(model.hidden_size)),
          attended_stride_(row_stride(model.num_heads * model.head_dim)),
          activated_stride_(row_stride(model.intermediate_size)), qkv_stride_(model.layers[0].qkv.num_outputs),
          quantized_stride_(scratch.quantized_stride), is_shared_(team.size == 1 || step.num_tokens < least_blocks()),
          weights_(products, kProducts * model.num_layers, is_shared_ ? team.thread : 0, is_shared_ ? team.size : 1) {}

    void run() {
        each_range([&](const Range& range) {
            embed(range);
            before_attention(range, 0);
        });
        for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
            const Heads out{scratch_.attended, attended_stride_, model_.head_dim, kOperand};
            attend(kv_, layer, model_.layers[layer].window, batch_, work_, heads(0), out, team_);
            wait(team_);
            each_range([&](const Range& range) {
                after_attention(range, layer);
                if (layer + 1 < model_.num_layers) before_attention(range, layer + 1);
            });
        }
    }

private:
    // A barrier.
    void wait(Team& team) {
        team.barrier([&] { weights_.advance(4); });
    }

    // Of a layer, in the order of `products`.
    enum Product { kQkv, kOutput, kGateUp, kDown, kProducts };

    // Tokens from which on each thread has its own.
    int64_t least_blocks() const { return team_.size * (is_quantized_ ? kMinBlockTokensInt8 : kMinBlockTokens); }

    // Few tokens: all threads together. Many: blocks of them, a thread each. Ends with a barrier.
    template <typename Each>
    void each_range(const Each& each) {
        const int64_t count = step_.num_tokens;
        if (is_shared_) {
            for (int64_t first = 0; first < count; first += kBlockTokens)
                each(Range{first, std::min(first + kBlockTokens, count), 0, team_});
            return;
        }
        const int64_t rounds = (count + kBlockTokens * team_.size - 1) / (kBlockTokens * team_.size);
        const int64_t size = ((count + rounds * team_.size - 1) / (rounds * team_.size) + 31) / 32 * 32;
        TeamState alone(1);
        Team solo(alone, 0, 1);
        team_.share((count + size - 1) / size, [&](int64_t block) {
            each(Range{block * size, std::min((block + 1) * size, count), team_.thread * kBlockTokens, solo});
        });
        wait(team_);
    }

    void embed(const Range& range) {
        const int64_t size = model_.hidden_size;
        range.each_token([&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token)
                widen(model_.embedding + step_.token_ids[token] * size, size, step_.hidden + token * size);
        });
        wait(range.team);
    }

    void before_attention(const Range& range, int64_t layer) {
        const DecoderLayer& weights = model_.layers[layer];
        norm(range, weights.input_norm);
        const Output qkv{scratch_.qkv + range.first * qkv_stride_, qkv_stride_};
        weights_.begin(layer * kProducts + kQkv);
        multiply(normed(range), range.size(), weights.qkv, range.team, qkv, weights_,
                 [&](int64_t row, int64_t output, const float* sums) {
                     std::memcpy(qkv.data + row * qkv_stride_ + output, sums, kPanel * sizeof(float));
                 });
        wait(range.team);
        const int64_t first_k = model_.num_heads, first_v = first_k + model_.num_kv_heads;
        range.each_token([&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token) {
                weights_.advance(kTokenLines);
                position(token, weights, first_k, first_v);
            }
            write_kv(kv_, layer, batch_.write_slots, first, last, heads(first_k), heads(first_v));
        });
        wait(range.team);
    }

    void after_attention(const Range& range, int64_t layer) {
        const DecoderLayer& weights = model_.layers[layer];
        add(range, static_cast<Operand*>(scratch_.attended) + range.first * attended_stride_, attended_stride_,
            model_.num_heads * model_.head_dim, weights.output, layer * kProducts + kOutput);
        norm(range, weights.mlp_norm);
        Operand* activated = static_cast<Operand*>(scratch_.activated) + range.row * activated_stride_;
        weights_.begin(layer * kProducts + kGateUp);
        multiply(normed(range), range.size(), weights.gate_up, range.team, {}, weights_,
                 [&](int64_t row, int64_t output, const float* sums) {
                     silu_mul(sums, sums + 16, activated + row * activated_stride_ + output / 2);
                 });
        wait(range.team);
        add(range, activated, activated_stride_, model_.intermediate_size, weights.down, layer * kProducts + kDown);
    }

    // Leaves `normed` rows.
    void norm(const Range& range, const float* weight) {
        const int64_t size = model_.hidden_size;
        range.each_token([&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; ++token) {
                const int64_t row = range.row + token - range.first;
                Operand* into = static_cast<Operand*>(scratch_.normed) + row * normed_stride_;
                weights_.advance(kTokenLines);
                rms_norm(step_.hidden + token * size, weight, model_.norm_eps, size, into);
                if (is_quantized_) quantize(into, size, row);
            }
        });
        wait(range.team);
    }

    Rows normed(const Range& range) const {
        if (is_quantized_) return quantized(range);
        return {static_cast<Operand*>(scratch_.normed) + range.row * normed_stride_, kOperandBytes * normed_stride_,
                nullptr};
    }

    void quantize(const Operand* x, int64_t size, int64_t row) {
        scratch_.row_scales[row] = quantize_row(x, size, scratch_.quantized + row * quantized_stride_);
    }

    Rows quantized(const Range& range) const {
        return {scratch_.quantized + range.row * quantized_stride_, quantized_stride_,
                scratch_.row_scales + range.row};
    }

    // RMSNorm of q's and k's heads where the model has one, and RoPE.
    void position(int64_t token, const DecoderLayer& weights, int64_t first_k, int64_t first_v) {
        const int64_t head_dim = model_.head_dim, rope_row = step_.rope_rows[token] * head_dim;
        float* row = scratch_.qkv + token * qkv_stride_;
        for (int64_t head = 0; head < first_v; ++head) {
            const float* norm = head < first_k ? weights.q_norm : weights.k_norm;
            if (norm) rms_norm_in_place(row + head * head_dim, norm, model_.norm_eps, head_dim);
            rotate(row + head * head_dim, step_.cos + rope_row, step_.sin + rope_row, head_dim);
        }
    }

    // Adds the product of rows x of `num_inputs` to the residual stream.
    void add(const Range& range, const Operand* x, int64_t stride, int64_t num_inputs, const PackedLinear& linear,
             int64_t product) {
        const int64_t size = model_.hidden_size;
        Rows rows{x, kOperandBytes * stride, nullptr};
        if (is_quantized_) {
            range.each_token([&](int64_t first, int64_t last) {
                for (int64_t token = first; token < last; ++token) {
                    const int64_t row = token - range.first;
                    quantize(x + row * stride, num_inputs, range.row + row);
                }
            });
            wait(range.team);
            rows = quantized(range);
        }
        const Output sum{step_.hidden + range.first * size, size};
        weights_.begin(product);
        multiply(rows, range.size(), linear, range.team, sum, weights_,
                 [&](int64_t row, int64_t output, const float* sums) {
                     float* hidden = sum.data + row * size + output;
                     const int64_t count = std::min(kPanel, size - output);
                     int64_t i = 0;
                     for (; i + Vec::kLanes <= count; i += Vec::kLanes)
                         (Vec::load(hidden + i) + Vec::load(sums + i)).store(hidden + i);
                     for (; i < count; ++i) hidden[i] += sums[i];
                 });
        wait(range.team);
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
    const bool is_quantized_;
    const int64_t normed_stride_, attended_stride_, activated_stride_, qkv_stride_, quantized_stride_;
    const bool is_shared_;
    WeightsAhead weights_;
};

}  // namespace

void decoder_forward(
    const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
    const DecoderScratch& scratch) {
    TeamState state(omp_get_max_threads());
    std::vector<const PackedLinear*> products;
    for (int64_t i = 0; i < model.num_layers; ++i) {
        const DecoderLayer& layer = model.layers[i];
        products.insert(products.end(), {&layer.qkv, &layer.output, &layer.gate_up, &layer.down});
    }
#pragma omp parallel
    {
        Team team(state);
#if defined(TIERCEL_ISA_AMX)
        Tiles configured;
#endif
        Pass(model, kv, batch, work, step, scratch, products.data(), team).run();
    }
}

void decoder_logits(const Decoder& model, const float* hidden, int64_t num_rows, const DecoderScratch& scratch,
                    float* logits) {
    const int64_t size = model.hidden_size, stride = row_stride(size), outputs = model.lm_head.num_outputs;
    TeamState state(omp_get_max_threads());
    const PackedLinear* const product = &model.lm_head;
#pragma omp parallel
    {
        Team team(state);
#if defined(TIERCEL_ISA_AMX)
        Tiles configured;
#endif
        WeightsAhead weights(&product, 1, team.thread, team.size);
        for (int64_t start = 0; start < num_rows; start += kBlockTokens) {
            const int64_t count = std::min(kBlockTokens, num_rows - start);
            Range{0, count, 0, team}.each_token([&](int64_t first, int64_t last) {
                for (int64_t row = first; row < last; ++row) {
                    Operand* normed = static_cast<Operand*>(scratch.normed) + row * stride;
                    rms_norm(hidden + (start + row) * size, model.final_norm, model.norm_eps, size, normed);
                    if (model.lm_head.scales)
                        scratch.row_scales[row] =
                            quantize_row(normed, size, scratch.quantized + row * scratch.quantized_stride);
                }
            });
            team.barrier();
            const Rows rows = model.lm_head.scales
                                  ? Rows{scratch.quantized, scratch.quantized_stride, scratch.row_scales}
                                  : Rows{scratch.normed, kOperandBytes * stride, nullptr};
            weights.begin(0);
            multiply(rows, count, model.lm_head, team, {}, weights,
                     [&](int64_t row, int64_t output, const float* sums) {
                         std::memcpy(logits + (start + row) * outputs + output, sums, kPanel * sizeof(float));
                     });
            team.barrier();
        }
    }
}

}  // namespace tiercel::TIERCEL_ISA
