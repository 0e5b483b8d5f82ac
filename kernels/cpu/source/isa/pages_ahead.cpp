#include "pages_ahead.h"

#include "rows.h"

namespace tiercel::TIERCEL_ISA {
namespace {

// As much as memory delivers in once or twice its latency.
#if defined(TIERCEL_ISA_AMX)
constexpr int64_t kBytesAhead = 16384;
#else
constexpr int64_t kBytesAhead = 6144;
#endif

}  // namespace

void PagesAhead::begin(const Stretch& now, const Stretch& next) {
    next_ = next;
    const bool begun = now.blocks == stretch_.blocks && now.head == stretch_.head && now.first == stretch_.first;
    if (begun) return;
    start(now);
    credit_ = 0;
    advance(kBytesAhead);
}

void PagesAhead::start(const Stretch& stretch) {
    stretch_ = stretch;
    split_ = stretch.first;
    head_ = stretch.head;
    start_part(split_);
    line_ = end_ = nullptr;
}

void PagesAhead::start_part(int64_t first) {
    first_ = token_ = first;
    last_ = std::min(stretch_.last, (first / kPartTokens + 1) * kPartTokens);
    is_value_ = false;
}

bool PagesAhead::next_page() {
    line_ = end_ = nullptr;
    if (token_ >= last_) {
        const bool is_split_read = last_ == stretch_.last || last_ % kSplitTokens == 0;
        if (!is_value_) {
            is_value_ = true;
            token_ = first_;
        } else if (!is_split_read) {
            start_part(last_);
        } else if (head_ + 1 < stretch_.head + stretch_.num_heads) {
            ++head_;
            start_part(split_);
        } else if (last_ < stretch_.last) {
            head_ = stretch_.head;
            start_part(split_ = last_);
        } else if (next_.blocks != nullptr) {
            start(next_);
            next_ = {};
        } else {
            credit_ = 0;
            return false;
        }
    }
    const PagedKv& kv = *stretch_.kv;
    const uint32_t size = static_cast<uint32_t>(kv.block_size), position = static_cast<uint32_t>(token_);
    const uint32_t offset = position % size;
    const int64_t number = std::min<int64_t>(size - offset, last_ - token_);
    const int64_t row_bytes = kv.head_dim * element_bytes(kv.element);
    const uint8_t* page = kv.page(stretch_.blocks[position / size], stretch_.layer, is_value_, head_);
    line_ = page + offset * row_bytes;
    end_ = line_ + number * row_bytes;
    token_ += number;
    if (kv.element == Element::kFp8E4m3) {
        if (offset + number == size) end_ = page + kv.scales_offset_bytes + 2 * size;  // the scales follow the elements
        else _mm_prefetch(reinterpret_cast<const char*>(page + kv.scales_offset_bytes + 2 * offset), _MM_HINT_T1);
    }
    return true;
}

}  // namespace tiercel::TIERCEL_ISA
