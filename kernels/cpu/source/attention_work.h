// How a step's attention is cut into tasks, and the memory that they need. Made once per step, used by all layers.
#pragma once

#include <cstdint>
#include <vector>

#include "paged_kv.h"

namespace tiercel {

// K and V are attended to in splits between multiples of this position, each with a softmax of its own; the results
// are merged in ascending order (Flash-Decoding; online softmax, arXiv:1805.02867). The cuts depend on nothing but
// positions, so a query's result is the same, bit for bit, in whatever batch, chunk or number of threads.
constexpr int64_t kSplitTokens = 512;

// What an instruction set's way to compute wants of the tasks.
struct AttnShape {
    int64_t num_heads;
    int64_t kv_heads;
    int64_t max_columns;       // of a unit; a column is one query of one head
    int64_t max_units;         // of a task, where units have kFewColumns
    int64_t value_floats;      // of a column's result, padded
    int64_t scratch_bytes;     // per thread
    int64_t packed_bytes;      // of a split as units of more columns than kFewColumns have it packed; 0: they have not
    bool exact;                // fp32 throughout; else bf16 products where the instruction set has them
};

// One K/V head of one row, and some of its columns: column c is query c / group, head c % group of the group.
struct AttnUnit {
    int32_t row, kv_head;
    int32_t first_column, num_columns;
    int32_t first_split, last_split;  // [first, last), of those that any of the columns sees
    int32_t num_tasks;
    int32_t tasks_left;               // counted down by those that share the unit, and up again by the last
    int64_t partials;                 // where its splits' results start, in floats: one if num_tasks is 1
};

// Consecutive units, the same splits of each: several where they are heads of the same few columns, whose pages are
// neighbours.
struct AttnTask {
    int32_t unit, num_units;
    int32_t first_split, last_split;
    int64_t cost;
};

struct AttnTasks {
    int64_t window;  // 0: none
    std::vector<AttnUnit> units;
    std::vector<AttnTask> tasks;  // as AttnWork::order() has them

    // For code that is compiled per instruction set: the linker keeps one copy of a template's functions, whichever.
    AttnUnit* unit_list();
    const AttnTask* task_list() const;
    int64_t num_tasks() const;
};

// Memory that only grows, aligned to cache lines.
class Workspace {
public:
    ~Workspace();
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    // Contents are lost where it grows.
    void reserve(int64_t bytes);
    uint8_t* data = nullptr;

private:
    int64_t size_ = 0;
};

class AttnWork {
public:
    // Outside of parallel regions. `windows` are the distinct ones of the layers, 0 for none. The batch must live as
    // long as it is attended with.
    void prepare(const AttnShape& shape, const AttnBatch& batch, const int64_t* windows, int64_t num_windows,
                 int64_t num_threads);

    AttnTasks& tasks(int64_t window);
    const AttnShape& shape() const { return shape_; }
    uint8_t* scratch(int64_t thread) { return scratch_.data + thread * shape_.scratch_bytes; }
    // Room for so many splits that the thread has packed.
    int64_t num_packed() const { return num_packed_; }
    uint8_t* packed(int64_t thread) { return packed_.data + thread * num_packed_ * shape_.packed_bytes; }
    float* partials() { return reinterpret_cast<float*>(partials_.data); }

private:
    // Returns the floats that the units' partial results need.
    int64_t cut(const AttnBatch& batch, AttnTasks& into, int64_t num_threads) const;
    // Puts tasks into the order in which threads take them.
    void order(AttnTasks& into) const;
    // Packed splits that a thread has use for.
    int64_t packed_splits() const;
    // The heads of a row that a task reads together.
    int64_t heads_together(const AttnTasks& tasks, int64_t num_threads) const;

    AttnShape shape_{};
    std::vector<AttnTasks> by_window_;
    int64_t num_packed_ = 0;
    Workspace scratch_, packed_, partials_;
};

// Packed splits that a thread keeps, at most.
constexpr int64_t kMaxPackedSplits = 32;

// As decode has them.
constexpr int64_t kFewColumns = 16;

// Columns as the kernels lay them out: whole vectors, and pairs of tiles where there are several.
inline int64_t padded_columns(int64_t columns) { return columns <= kFewColumns ? kFewColumns : (columns + 31) / 32 * 32; }

// A split's result: the highest score and the sum of exponentials of each column, then the weighted values.
inline int64_t partial_floats(const AttnShape& shape, int64_t columns) {
    return padded_columns(columns) * (shape.value_floats + 2);
}

}  // namespace tiercel
