#include "attention_work.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace tiercel {
namespace {

// Tasks per thread to aim for where a unit has to be cut: enough to even out, few enough to cost nothing.
constexpr int64_t kTasksPerThread = 6;

// Units per thread to aim for where a row is read in one split, and so can be shared by its columns only, and the columns
// that are worth a task.
constexpr int64_t kUnitsPerThread = 3, kLeastColumns = 64;

// Tasks per thread below which a row's heads are not read together.
constexpr int64_t kRowTasksPerThread = 4;

// Of the splits that a thread keeps packed: those that no longer fit into the second cache still cost less than packing
// them again.
constexpr int64_t kPackedBytes = 4 << 20;

}  // namespace

Workspace::~Workspace() { std::free(data); }

void Workspace::reserve(int64_t bytes) {
    if (bytes <= size_) return;
    const int64_t rounded = (bytes + (bytes >> 2) + 4095) / 4096 * 4096;
    std::free(data);
    size_ = 0;
    data = static_cast<uint8_t*>(std::aligned_alloc(4096, static_cast<size_t>(rounded)));
    if (data == nullptr) throw std::bad_alloc();
    size_ = rounded;
}

AttnUnit* AttnTasks::unit_list() { return units.data(); }
const AttnTask* AttnTasks::task_list() const { return tasks.data(); }
int64_t AttnTasks::num_tasks() const { return static_cast<int64_t>(tasks.size()); }

void AttnWork::prepare(const AttnShape& shape, const AttnBatch& batch, const int64_t* windows, int64_t num_windows,
                       int64_t num_threads) {
    shape_ = shape;
    by_window_.resize(static_cast<size_t>(num_windows));
    int64_t partial_floats = 0;
    for (int64_t i = 0; i < num_windows; ++i) {
        by_window_[i].window = windows[i];
        // Layers run one after another, so windows share the memory.
        partial_floats = std::max(partial_floats, cut(batch, by_window_[i], num_threads));
    }
    num_packed_ = shape.packed_bytes > 0 ? packed_splits() : 0;
    packed_.reserve(num_threads * num_packed_ * shape.packed_bytes);
    partials_.reserve(partial_floats * 4);
    scratch_.reserve(num_threads * shape.scratch_bytes);
}

int64_t AttnWork::packed_splits() const {
    int64_t most = 0;
    for (const AttnTasks& tasks : by_window_)
        for (const AttnTask& task : tasks.tasks)
            if (tasks.units[static_cast<size_t>(task.unit)].num_columns > kFewColumns)
                most = std::max<int64_t>(most, task.last_split - task.first_split);
    return std::min(most, std::clamp<int64_t>(kPackedBytes / shape_.packed_bytes, 1, kMaxPackedSplits));
}

AttnTasks& AttnWork::tasks(int64_t window) {
    for (auto& tasks : by_window_)
        if (tasks.window == window) return tasks;
    std::abort();  // who prepares names all windows
}

int64_t AttnWork::cut(const AttnBatch& batch, AttnTasks& into, int64_t num_threads) const {
    into.units.clear();
    into.tasks.clear();
    const int64_t group = shape_.num_heads / shape_.kv_heads;
    int64_t total = 0;
    const int64_t all_columns = batch.query_starts[batch.num_rows] * shape_.num_heads;
    const int64_t fair_columns = std::max(kLeastColumns, all_columns / (num_threads * kUnitsPerThread));
    for (int64_t row = 0; row < batch.num_rows; ++row) {
        const int64_t queries = batch.query_starts[row + 1] - batch.query_starts[row];
        const int64_t start = batch.context_lens[row] - queries;
        const int64_t columns = queries * group;
        const bool is_one_split = num_threads > 1 && batch.context_lens[row] <= kSplitTokens;
        const int64_t most = is_one_split ? std::min(shape_.max_columns, fair_columns) : shape_.max_columns;
        const int64_t num_tiles = (columns + most - 1) / most;
        const int64_t tile = num_tiles > 1 ? padded_columns((columns + num_tiles - 1) / num_tiles) : columns;
        for (int64_t first = 0; first < columns; first += tile) {
            const int64_t count = std::min(tile, columns - first);
            const int64_t first_query = start + first / group, last_query = start + (first + count - 1) / group;
            const int64_t low = into.window ? std::max<int64_t>(0, first_query - into.window + 1) : 0;
            for (int64_t head = 0; head < shape_.kv_heads; ++head) {
                AttnUnit unit{};
                unit.row = static_cast<int32_t>(row);
                unit.kv_head = static_cast<int32_t>(head);
                unit.first_column = static_cast<int32_t>(first);
                unit.num_columns = static_cast<int32_t>(count);
                unit.first_split = static_cast<int32_t>(low / kSplitTokens);
                unit.last_split = static_cast<int32_t>(last_query / kSplitTokens + 1);
                into.units.push_back(unit);
                total += padded_columns(count) * (unit.last_split - unit.first_split);
            }
        }
    }
    const int64_t fair = total / (num_threads * kTasksPerThread) + 1, together = heads_together(into, num_threads);
    int64_t floats = 0, num_units = 1;
    for (size_t i = 0; i < into.units.size(); i += static_cast<size_t>(num_units)) {
        const AttnUnit& first_unit = into.units[i];
        num_units = first_unit.num_columns <= kFewColumns ? std::min(together, shape_.kv_heads - first_unit.kv_head) : 1;
        const int64_t splits = first_unit.last_split - first_unit.first_split;
        const int64_t split_cost = padded_columns(first_unit.num_columns) * num_units;
        int64_t per_task = splits;
        if (num_threads > 1 && splits * split_cost > (num_units > 1 ? fair : 2 * fair))
            per_task = std::max<int64_t>(1, fair / split_cost);
        const int64_t num_tasks = (splits + per_task - 1) / per_task;
        for (int64_t j = 0; j < num_units; ++j) {
            AttnUnit& unit = into.units[i + static_cast<size_t>(j)];
            unit.num_tasks = unit.tasks_left = static_cast<int32_t>(num_tasks);
            unit.partials = floats;
            if (num_tasks > 1) floats += splits * partial_floats(shape_, unit.num_columns);
            else if (num_units > 1) floats += partial_floats(shape_, unit.num_columns);
        }
        for (int64_t first = first_unit.first_split; first < first_unit.last_split; first += per_task) {
            const int64_t last = std::min<int64_t>(first + per_task, first_unit.last_split);
            into.tasks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(num_units), static_cast<int32_t>(first),
                                  static_cast<int32_t>(last), (last - first) * split_cost});
        }
    }
    order(into);
    return floats;
}

void AttnWork::order(AttnTasks& into) const {
    // One of a K/V head's tasks after the other, since a thread keeps what it has packed; the longest first, among the
    // heads and of each. Others are on their own.
    const auto is_packed = [&](const AttnUnit& unit) { return shape_.packed_bytes > 0 && unit.num_columns > kFewColumns; };
    std::vector<int64_t> longest(into.units.size());
    std::vector<size_t> first_unit(into.units.size());
    size_t row_start = 0;
    for (const AttnTask& task : into.tasks) {
        const size_t index = static_cast<size_t>(task.unit);
        const AttnUnit& unit = into.units[index];
        if (into.units[row_start].row != unit.row) row_start = index;
        // A row's units are tile by tile, and of each all heads.
        first_unit[index] = is_packed(unit) ? row_start + static_cast<size_t>(unit.kv_head) : index;
        longest[first_unit[index]] = std::max(longest[first_unit[index]], task.cost);
    }
    std::stable_sort(into.tasks.begin(), into.tasks.end(), [&](const AttnTask& a, const AttnTask& b) {
        const size_t left = first_unit[static_cast<size_t>(a.unit)], right = first_unit[static_cast<size_t>(b.unit)];
        if (longest[left] != longest[right]) return longest[left] > longest[right];
        return left != right ? left < right : a.cost > b.cost;
    });
}

int64_t AttnWork::heads_together(const AttnTasks& tasks, int64_t num_threads) const {
    int64_t row_splits = 0;
    for (const AttnUnit& unit : tasks.units)
        if (unit.kv_head == 0 && unit.num_columns <= kFewColumns) row_splits += unit.last_split - unit.first_split;
    if (row_splits == 0) return 1;
    int64_t groups = (shape_.kv_heads + shape_.max_units - 1) / shape_.max_units;
    if (num_threads > 1) groups = std::max(groups, (kRowTasksPerThread * num_threads + row_splits - 1) / row_splits);
    groups = std::min(groups, shape_.kv_heads);
    return (shape_.kv_heads + groups - 1) / groups;
}

}  // namespace tiercel
