// AMX: eight tiles of 16 rows by 64 bytes. A product of two adds [16, 32] x [32, 16] in bf16 to [16, 16] in fp32.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

namespace tiles {

struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

    void load() const {
        // GCC's intrinsic claims to read eight bytes only, so the others would not be stored.
        asm volatile("" : : "r"(this) : "memory");
        _tile_loadconfig(this);
    }
};

}  // namespace tiles

// Configures this thread's tiles as eight full ones while it lives, and releases them then: a thread that keeps tiles
// pays for them at each context switch.
class Tiles {
public:
    Tiles() { tiles::Config().load(); }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// While it lives, a thread that holds a `Tiles` has those of a product of one to fifteen rows with these rows only: 4, the
// left operand, and 0 and 1, the sums: they are sooner loaded and multiplied. More rows leave all as they are.
class RowTiles {
public:
    explicit RowTiles(int64_t num_rows) : is_set_(num_rows < 16) {
        if (!is_set_) return;
        tiles::Config config;
        config.rows[0] = config.rows[1] = config.rows[4] = static_cast<uint8_t>(num_rows);
        config.load();
    }
    ~RowTiles() {
        if (is_set_) tiles::Config().load();
    }
    RowTiles(const RowTiles&) = delete;
    RowTiles& operator=(const RowTiles&) = delete;

private:
    const bool is_set_;
};

// While it lives, a thread that holds a `Tiles` may have some that are as narrow as a few columns of attention: 1 and 2
// have 16 rows of so many floats, 3 to 7 so many rows of 64 bytes. 0 is a full one.
class ColumnTiles {
public:
    ColumnTiles() = default;
    ~ColumnTiles() { set(16); }
    ColumnTiles(const ColumnTiles&) = delete;
    ColumnTiles& operator=(const ColumnTiles&) = delete;

    // Loses what is in the tiles where it changes anything, which takes some 200 cycles.
    void set(int columns) {
        if (columns == columns_) return;
        columns_ = columns;
        tiles::Config config;
        config.column_bytes[1] = config.column_bytes[2] = static_cast<uint16_t>(4 * columns);
        for (int i = 3; i < 8; ++i) config.rows[i] = static_cast<uint8_t>(columns);
        config.load();
    }

private:
    int columns_ = 16;
};

// Before tiles are loaded from what this function has stored: the compiler does not know that loading them reads memory.
inline void stores_before_tiles() { asm volatile("" : : : "memory"); }

// The unit that multiplies tiles takes some thousand cycles longer for its next work once it has had none for some five
// hundred (Sapphire Rapids). Code that works with vectors for longer makes a product now and then, which nobody reads:
// tiles 0, 4 and 6 must hold nothing that is needed.
inline void keep_awake() { _tile_dpbf16ps(0, 4, 6); }

}  // namespace tiercel::TIERCEL_ISA
