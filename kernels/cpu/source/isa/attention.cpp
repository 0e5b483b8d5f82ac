#include "attention.h"

#include <cmath>

#include "attention_math.h"
#include "exp2.h"

namespace tiercel::TIERCEL_ISA {
namespace {

template <typename Math>
AttnShape shape_of(const PagedKv& kv, int64_t num_heads, bool exact) {
    AttnShape shape{num_heads, kv.kv_heads, Math::kMaxColumns, Math::kMaxUnits, Math::value_floats(kv), 0, Math::packed_bytes(kv), exact};
    shape.scratch_bytes = round_up(2 * Math::kMaxColumns * 4, 64) + round_up(Math::query_bytes(kv), 64) +
                          2 * partial_floats(shape, Math::kMaxColumns) * 4 + round_up(Math::scratch_bytes(kv), 64);
    // Threads shall not meet in a page, nor in the same sets of a cache.
    shape.scratch_bytes = round_up(shape.scratch_bytes, 4096) + 4096 + 64 * 7;
    return shape;
}

struct Buffers {
    float* low;
    float* high;
    uint8_t* queries;
    float* sum;
    float* part;
    uint8_t* split;
};

template <typename Math>
Buffers buffers_in(uint8_t* memory, const PagedKv& kv, const AttnShape& shape) {
    Buffers buffers;
    buffers.low = reinterpret_cast<float*>(memory);
    buffers.high = buffers.low + Math::kMaxColumns;
    buffers.queries = memory + round_up(2 * Math::kMaxColumns * 4, 64);
    buffers.sum = reinterpret_cast<float*>(buffers.queries + round_up(Math::query_bytes(kv), 64));
    buffers.part = buffers.sum + partial_floats(shape, Math::kMaxColumns);
    buffers.split = reinterpret_cast<uint8_t*>(buffers.part + partial_floats(shape, Math::kMaxColumns));
    return buffers;
}

// sum = sum and part together (arXiv:1805.02867).
void merge(const Partial& sum, const Partial& part, int64_t columns, int64_t value_floats) {
    for (int64_t column = 0; column < columns; column += Vec::kLanes) {
        const Vec before = Vec::load(sum.highest + column), added = Vec::load(part.highest + column);
        const Vec highest = max(before, added);
        const Vec keep = exp2(before - highest), take = exp2(added - highest);
        highest.store(sum.highest + column);
        fma(Vec::load(part.sums + column), take, Vec::load(sum.sums + column) * keep).store(sum.sums + column);
        alignas(64) float keeps[Vec::kLanes], takes[Vec::kLanes];
        keep.store(keeps);
        take.store(takes);
        for (int64_t i = 0; i < std::min<int64_t>(Vec::kLanes, columns - column); ++i) {
            float* values = sum.values + (column + i) * value_floats;
            const float* others = part.values + (column + i) * value_floats;
            const Vec k = Vec::of(keeps[i]), t = Vec::of(takes[i]);
            for (int64_t d = 0; d < value_floats; d += Vec::kLanes)
                fma(Vec::load(others + d), t, Vec::load(values + d) * k).store(values + d);
        }
    }
}

// One task: some splits of its units, and a unit's end where it is the last of its tasks.
template <typename Math>
class TaskRun {
public:
    TaskRun(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch, AttnWork& work, const Heads& q,
            const Heads& out, AttnUnit* units, const AttnTask& task, int64_t thread, PagesAhead& ahead,
            typename Math::Packed& packed, const AttnUnit*& loaded)
        : kv_(kv), layer_(layer), window_(window),
          score_scale_(1.44269504f / std::sqrt(static_cast<float>(kv.head_dim))), batch_(batch), work_(work), q_(q),
          out_(out), units_(units + task.unit), task_(task), group_(work.shape().num_heads / kv.kv_heads),
          value_floats_(work.shape().value_floats), buffers_(buffers_in<Math>(work.scratch(thread), kv, work.shape())),
          ahead_(ahead), packed_(packed), loaded_(loaded) {}

    void run() {
        load();
        for (int64_t split = task_.first_split; split < task_.last_split; ++split)
            for (int64_t i = 0; i < task_.num_units; ++i) attend_split(units_[i], queries(i), split);
        for (int64_t i = 0; i < task_.num_units; ++i) end(units_[i]);
    }

private:
    int64_t token(const AttnUnit& unit, int64_t column) const {
        return batch_.query_starts[unit.row] + (unit.first_column + column) / group_;
    }
    int64_t head(const AttnUnit& unit, int64_t column) const {
        return unit.kv_head * group_ + (unit.first_column + column) % group_;
    }

    // Several units have few columns each.
    uint8_t* queries(int64_t i) const {
        return buffers_.queries + i * (Math::query_bytes(kv_) / Math::kMaxColumns * kFewColumns);
    }

    // A thread's tasks of one unit often follow each other.
    void load() {
        if (loaded_ == units_ && task_.num_units == 1) return;
        loaded_ = task_.num_units == 1 ? units_ : nullptr;
        load_bounds(units_[0]);
        for (int64_t i = 0; i < task_.num_units; ++i) load_queries(units_[i], queries(i));
    }

    // What columns see, the same for all units of a task.
    void load_bounds(const AttnUnit& unit) {
        const int64_t columns = unit.num_columns, padded = padded_columns(columns);
        const int64_t first = batch_.context_lens[unit.row] - batch_.query_starts[unit.row + 1];
        for (int64_t column = 0; column < columns; ++column) {
            const int64_t position = first + token(unit, column);
            buffers_.high[column] = static_cast<float>(position + 1);
            buffers_.low[column] = window_ ? static_cast<float>(std::max<int64_t>(0, position - window_ + 1)) : 0.0f;
        }
        std::fill(buffers_.high + columns, buffers_.high + padded, buffers_.high[columns - 1]);
        std::fill(buffers_.low + columns, buffers_.low + padded, buffers_.low[columns - 1]);
    }

    void load_queries(const AttnUnit& unit, uint8_t* into) {
        const int64_t columns = unit.num_columns;
        if (columns < padded_columns(columns))
            std::memset(into, 0,
                        static_cast<size_t>(Math::query_bytes(kv_) * padded_columns(columns) / Math::kMaxColumns));
        alignas(64) float row[kMaxHeadDim] = {};
        for (int64_t column = 0; column < columns; ++column) {
            load_row(heads_row(q_, token(unit, column), head(unit, column)), q_.element, kv_.head_dim, row);
            Math::put_query(kv_, row, column, columns, into);
        }
    }

    void attend_split(const AttnUnit& unit, const uint8_t* queries, int64_t split) {
        const int64_t start = split * kSplitTokens;
        const int64_t count = std::min<int64_t>(kSplitTokens, batch_.context_lens[unit.row] - start);
        const bool is_first = split == task_.first_split || unit.num_tasks > 1;
        const Partial into = !is_first ? Partial(buffers_.part, unit.num_columns)
                             : unit.num_tasks > 1 ? partial(unit, split) : sum(unit);
        Math::attend_split({kv_, batch_.block_table + unit.row * batch_.table_stride, layer_, unit.kv_head, start, count,
                            unit.num_columns, buffers_.low, buffers_.high, score_scale_, &ahead_},
                           packed_, queries, buffers_.split, into);
        if (!is_first) merge(sum(unit), into, unit.num_columns, value_floats_);
    }

    void end(AttnUnit& unit) {
        if (unit.num_tasks == 1) return finish(unit, sum(unit));
        if (__atomic_sub_fetch(&unit.tasks_left, 1, __ATOMIC_ACQ_REL) > 0) return;
        unit.tasks_left = unit.num_tasks;
        const Partial merged = partial(unit, unit.first_split);
        for (int64_t split = unit.first_split + 1; split < unit.last_split; ++split)
            merge(merged, partial(unit, split), unit.num_columns, value_floats_);
        finish(unit, merged);
    }

    // Of a unit that has no other task.
    Partial sum(const AttnUnit& unit) const {
        return task_.num_units > 1 ? partial(unit, unit.first_split) : Partial(buffers_.sum, unit.num_columns);
    }

    Partial partial(const AttnUnit& unit, int64_t split) const {
        return {work_.partials() + unit.partials +
                    (split - unit.first_split) * partial_floats(work_.shape(), unit.num_columns),
                unit.num_columns};
    }

    void finish(const AttnUnit& unit, const Partial& sum) {
        alignas(64) float row[kMaxHeadDim];
        const bool is_vectors = out_.element == Element::kBf16 && kv_.head_dim % Vec::kLanes == 0;
        for (int64_t column = 0; column < unit.num_columns; ++column) {
            float* values = sum.values + column * value_floats_;
            const Vec inverse = Vec::of(1.0f / sum.sums[column]);
            for (int64_t d = 0; d < value_floats_; d += Vec::kLanes) (Vec::load(values + d) * inverse).store(values + d);
            if constexpr (Math::kReorders) Math::in_order(kv_, values, row);
            const float* from = Math::kReorders ? row : values;
            uint8_t* to = heads_row(out_, token(unit, column), head(unit, column));
            if (!is_vectors) {
                store_row(from, out_.element, kv_.head_dim, to);
                continue;
            }
            for (int64_t d = 0; d < kv_.head_dim; d += Vec::kLanes)
                Vec::load(from + d).store(reinterpret_cast<bf16*>(to) + d);
        }
    }

    const PagedKv& kv_;
    const int64_t layer_, window_;
    const float score_scale_;
    const AttnBatch& batch_;
    AttnWork& work_;
    const Heads& q_;
    const Heads& out_;
    AttnUnit* const units_;
    const AttnTask& task_;
    const int64_t group_, value_floats_;
    const Buffers buffers_;
    PagesAhead& ahead_;
    typename Math::Packed& packed_;
    const AttnUnit*& loaded_;  // the one whose bounds and queries the buffers have; null: several's
};

// What a task of few columns reads.
PagesAhead::Stretch stretch_of(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch, int64_t group,
                               const AttnUnit& unit, const AttnTask& task) {
    if (unit.num_columns > kFewColumns) return {};  // packed when it is met first
    const int64_t context = batch.context_lens[unit.row];
    const int64_t first_query = context - (batch.query_starts[unit.row + 1] - batch.query_starts[unit.row]) +
                                unit.first_column / group;
    const int64_t last_query = first_query + (unit.first_column % group + unit.num_columns - 1) / group;
    const int64_t low = window ? std::max<int64_t>(0, first_query - window + 1) : 0;
    return {&kv, batch.block_table + unit.row * batch.table_stride, layer, unit.kv_head,
            task.num_units, std::max(low, task.first_split * kSplitTokens),
            std::min(last_query + 1, task.last_split * kSplitTokens)};
}

template <typename Math>
void attend_with(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch, AttnWork& work,
                 const Heads& q, const Heads& out, Team& team) {
    AttnTasks& tasks = work.tasks(window);
    const AttnTask* task_list = tasks.task_list();
    AttnUnit* units = tasks.unit_list();
    typename Math::Tiles tiles;
    PagesAhead ahead;
    const AttnUnit* loaded = nullptr;
    typename Math::Packed packed(kv, work.packed(team.thread), work.num_packed());
    const int64_t group = work.shape().num_heads / kv.kv_heads, count = tasks.num_tasks();
    const auto stretch = [&](int64_t i) {
        return stretch_of(kv, layer, window, batch, group, units[task_list[i].unit], task_list[i]);
    };
    team.share_ahead(count, [&](int64_t i, int64_t next) {
        const AttnTask& task = task_list[i];
        const int64_t columns = units[task.unit].num_columns;
        tiles.set(columns);
        if (Math::kReadsAhead && columns <= kFewColumns)
            ahead.begin(stretch(i), next < count ? stretch(next) : PagesAhead::Stretch());
        TaskRun<Math>(kv, layer, window, batch, work, q, out, units, task, team.thread, ahead, packed, loaded).run();
    });
}

}  // namespace

AttnShape attention_shape(const PagedKv& kv, int64_t num_heads, bool exact) {
#if defined(TIERCEL_BF16_PRODUCTS)
    if (!exact) return shape_of<Bf16Math>(kv, num_heads, exact);
#endif
    return shape_of<ExactMath>(kv, num_heads, exact);
}

void attend(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch, AttnWork& work,
            const Heads& q, const Heads& out, Team& team) {
#if defined(TIERCEL_BF16_PRODUCTS)
    if (!work.shape().exact) return attend_with<Bf16Math>(kv, layer, window, batch, work, q, out, team);
#endif
    attend_with<ExactMath>(kv, layer, window, batch, work, q, out, team);
}

void attention_layer(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch,
                     AttnWork& work, const Heads& q, const Heads& k, const Heads& v, const Heads& out) {
    TeamState state(omp_get_max_threads());
#pragma omp parallel
    {
        Team team(state);
        write_step(kv, layer, batch, k, v, team);
        team.barrier();
#if defined(TIERCEL_ISA_AMX)
        const Tiles configured;
#endif
        attend(kv, layer, window, batch, work, q, out, team);
    }
}

}  // namespace tiercel::TIERCEL_ISA
