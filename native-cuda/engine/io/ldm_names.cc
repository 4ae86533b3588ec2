#include "io/ldm_names.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <utility>

namespace spindle {

namespace {

using Renames = std::pair<std::string_view, std::string_view>;

constexpr Renames kOuter[] = {
    {"conv_in", "input_blocks.0.0"},
    {"time_embedding.linear_1", "time_embed.0"},
    {"time_embedding.linear_2", "time_embed.2"},
    {"add_embedding.linear_1", "label_emb.0.0"},
    {"add_embedding.linear_2", "label_emb.0.2"},
    {"conv_norm_out", "out.0"},
    {"conv_out", "out.2"},
};

constexpr Renames kResnet[] = {
    {"norm1", "in_layers.0"},  {"conv1", "in_layers.2"},  {"time_emb_proj", "emb_layers.1"},
    {"norm2", "out_layers.0"}, {"conv2", "out_layers.3"}, {"conv_shortcut", "skip_connection"},
};

template <size_t N>
std::string_view renamed(const Renames (&table)[N], std::string_view name) {
  const auto* row =
      std::find_if(table, table + N, [&](const Renames& r) { return r.first == name; });
  return row == table + N ? std::string_view() : row->second;
}

std::string join(std::initializer_list<std::string_view> parts) {
  std::string out;
  for (std::string_view part : parts) (out += out.empty() ? "" : ".") += part;
  return out;
}

// "down_blocks.1.attentions.0.proj_in" as ("down_blocks", 1, "attentions", 0, "proj_in").
struct BlockName {
  std::string_view side, kind, rest;
  int block = 0, index = 0;
};

std::string_view take(std::string_view& text) {
  size_t dot = text.find('.');
  std::string_view part = text.substr(0, dot);
  text = dot == std::string_view::npos ? std::string_view() : text.substr(dot + 1);
  return part;
}

bool take_number(std::string_view& text, int& out) {
  std::string_view part = take(text);
  auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), out);
  return error == std::errc() && end == part.data() + part.size();
}

bool parse(std::string_view layer, BlockName& out) {
  out.side = take(layer);
  bool middle = out.side == "mid_block";
  if (!middle && out.side != "down_blocks" && out.side != "up_blocks") return false;
  if (!middle && !take_number(layer, out.block)) return false;
  out.kind = take(layer);
  if (!take_number(layer, out.index)) return false;
  out.rest = layer;
  return true;
}

struct Block {
  int resnets = 0;
  bool attends = false, resamples = false;
};
using Blocks = std::map<int, Block>;

// Entries of the blocks before this one: one for each resnet and, on the way down, each
// downsampler.
int entries_before(const Blocks& blocks, int block, bool down) {
  int entries = down ? 1 : 0;  // conv_in is the first on the way down
  for (const auto& [number, b] : blocks)
    if (number < block) entries += b.resnets + (down && b.resamples ? 1 : 0);
  return entries;
}

std::string block_name(const BlockName& name, const Blocks& downs, const Blocks& ups) {
  std::string_view inner = name.kind == "resnets" ? renamed(kResnet, name.rest) : name.rest;
  if (inner.empty()) return "";
  if (name.side == "mid_block")
    return join(
        {"middle_block", name.kind == "attentions" ? "1" : std::to_string(2 * name.index), inner});
  bool down = name.side == "down_blocks";
  const Blocks& blocks = down ? downs : ups;
  const Block& block = blocks.at(name.block);
  int first = entries_before(blocks, name.block, down);
  auto entry = [&](int number, std::string_view part) {
    return join({down ? "input_blocks" : "output_blocks", std::to_string(number), part});
  };
  if (name.kind == "resnets") return join({entry(first + name.index, "0"), inner});
  if (name.kind == "attentions") return join({entry(first + name.index, "1"), inner});
  if (name.kind == "downsamplers") return join({entry(first + block.resnets, "0"), "op"});
  if (name.kind != "upsamplers") return "";
  // Behind the last entry's resnet and, where there is one, its transformer.
  return join({entry(first + block.resnets - 1, block.attends ? "2" : "1"), inner});
}

}  // namespace

std::vector<std::string> ldm_unet_names(const std::vector<std::string>& layers) {
  Blocks downs, ups;
  for (const std::string& layer : layers) {
    BlockName name;
    if (!parse(layer, name) || name.side == "mid_block") continue;
    Block& block = (name.side == "down_blocks" ? downs : ups)[name.block];
    if (name.kind == "resnets") block.resnets = std::max(block.resnets, name.index + 1);
    if (name.kind == "attentions") block.attends = true;
    if (name.kind == "downsamplers") block.resamples = true;
  }
  std::vector<std::string> out;
  for (const std::string& layer : layers) {
    BlockName name;
    out.push_back(parse(layer, name) ? block_name(name, downs, ups)
                                     : std::string(renamed(kOuter, layer)));
  }
  return out;
}

}  // namespace spindle
