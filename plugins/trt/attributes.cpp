#include "attributes.h"

#include <climits>
#include <cstdio>
#include <cstring>

#include "log.h"
#include "op_tables.h"

namespace innerq::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char *kKindNames[] = {"one int32", "one float32", "text"};
constexpr PluginFieldType kKindTypes[] = {PluginFieldType::kINT32, PluginFieldType::kFLOAT32, PluginFieldType::kCHAR};

// Where the value of a field lives, and the words a text may be.
struct Place {
    int32_t *integer;
    float *real;
    const char *const *words;
    int word_count;
};

Place place_of(const char *name, Attributes &attributes) noexcept {
    innerq_config &config = attributes.config;
    const auto integer = [](int32_t &value) { return Place{&value, nullptr, nullptr, 0}; };
    if (strcmp(name, "spec_version") == 0) return integer(config.spec_version);
    if (strcmp(name, "key_bits") == 0) return integer(config.key_bits);
    if (strcmp(name, "value_bits") == 0) return integer(config.value_bits);
    if (strcmp(name, "sink") == 0) return integer(config.sink);
    if (strcmp(name, "recent") == 0) return integer(config.recent);
    if (strcmp(name, "key_mode") == 0) return {&config.key_mode, nullptr, kModes, 4};
    if (strcmp(name, "value_mode") == 0) return {&config.value_mode, nullptr, kModes, 4};
    if (strcmp(name, "key_norm") == 0) return {&config.key_norm, nullptr, kKeyNorms, 3};
    if (strcmp(name, "scale") == 0) return {nullptr, &attributes.scale, nullptr, 0};
    return {};
}

int32_t wrong(const OpSpec &op, const FieldSpec &spec, const PluginField &field) noexcept {
    return refuse("%s: field '%s': expected %s, got type %d with %d entries%s", op.name, spec.name,
                  kKindNames[static_cast<int>(spec.kind)], static_cast<int>(field.type), field.length,
                  field.data == nullptr ? " and no data" : "");
}

int32_t read_integer(const OpSpec &op, const FieldSpec &spec, const PluginField &field, int32_t &value) noexcept {
    int64_t wide = 0;
    if (field.length != 1) return wrong(op, spec, field);
    if (field.type == PluginFieldType::kINT32) {
        int32_t narrow;
        memcpy(&narrow, field.data, sizeof narrow);
        wide = narrow;
    } else if (field.type == PluginFieldType::kINT64) {
        memcpy(&wide, field.data, sizeof wide);
    } else {
        return wrong(op, spec, field);
    }
    if (wide < INT32_MIN || wide > INT32_MAX)
        return refuse("%s: field '%s': expected an int32, got %lld", op.name, spec.name, static_cast<long long>(wide));
    value = static_cast<int32_t>(wide);
    return 0;
}

int32_t read_float(const OpSpec &op, const FieldSpec &spec, const PluginField &field, float &value) noexcept {
    if (field.type != PluginFieldType::kFLOAT32 || field.length != 1) return wrong(op, spec, field);
    memcpy(&value, field.data, sizeof value);
    if (value >= 0 && value <= 1e30F) return 0;
    return refuse("%s: field '%s': expected a finite number >= 0 (0: 1/sqrt(D)), got %g", op.name, spec.name, value);
}

int32_t read_text(const OpSpec &op, const FieldSpec &spec, const PluginField &field, const Place &place) noexcept {
    if (field.type != PluginFieldType::kCHAR) return wrong(op, spec, field);
    const auto *text = static_cast<const char *>(field.data);
    const size_t length = strnlen(text, static_cast<size_t>(field.length));
    for (int index = 0; index < place.word_count; ++index) {
        const char *word = place.words[index];
        if (strlen(word) == length && memcmp(word, text, length) == 0) return *place.integer = index, 0;
    }
    char known[96] = "";
    for (int index = 0; index < place.word_count; ++index) {
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", index ? ", " : "", place.words[index]);
    }
    return refuse("%s: field '%s': expected one of %s, got '%.*s'", op.name, spec.name, known,
                  static_cast<int>(length < 64 ? length : 64), text);
}

int32_t read_field(const OpSpec &op, const FieldSpec &spec, const PluginField &field, Attributes &attributes) noexcept {
    if (field.data == nullptr || field.length < 1) return wrong(op, spec, field);
    const Place place = place_of(spec.name, attributes);
    if (spec.kind == FieldKind::kInt) return read_integer(op, spec, field, *place.integer);
    if (spec.kind == FieldKind::kFloat) return read_float(op, spec, field, *place.real);
    return read_text(op, spec, field, place);
}

int index_of(const OpSpec &op, const char *name) noexcept {
    for (int index = 0; index < op.field_count; ++index)
        if (strcmp(op.fields[index].name, name) == 0) return index;
    return -1;
}

// Before anything else is read: another contract may have other fields.
int32_t check_version(const OpSpec &op, const nvinfer1::PluginFieldCollection &fields) noexcept {
    for (int32_t i = 0; i < fields.nbFields; ++i) {
        const PluginField &field = fields.fields[i];
        if (field.name == nullptr || strcmp(field.name, "spec_version") != 0) continue;
        Attributes attributes{};
        if (read_field(op, {"spec_version", FieldKind::kInt}, field, attributes) != 0) return 1;
        if (attributes.config.spec_version == INNERQ_SPEC_VERSION) continue;
        return refuse(
            "%s: the engine or model was made for contract version %d, this library implements %d; rebuild the engine "
            "with `innerq-export build`, or load the plugin library that lies beside the engine",
            op.name, attributes.config.spec_version, INNERQ_SPEC_VERSION);
    }
    return 0;
}

// Bits of the fields of `op` that were read; -1 after a refusal.
int32_t read_all(const OpSpec &op, const nvinfer1::PluginFieldCollection &fields, Attributes &attributes) noexcept {
    int32_t seen = 0;
    for (int32_t i = 0; i < fields.nbFields; ++i) {
        const PluginField &field = fields.fields[i];
        const char *name = field.name == nullptr ? "(no name)" : field.name;
        const int index = index_of(op, name);
        if (index < 0) return refuse("%s: unknown field '%.64s'", op.name, name), -1;
        if (seen >> index & 1) return refuse("%s: field '%s' is given twice", op.name, name), -1;
        if (read_field(op, op.fields[index], field, attributes) != 0) return -1;
        seen |= 1 << index;
    }
    return seen;
}

}  // namespace

int32_t read_attributes(const OpSpec &op, const nvinfer1::PluginFieldCollection *fields,
                        Attributes &attributes) noexcept {
    attributes = {};
    if (fields == nullptr || fields->nbFields < 0 || (fields->nbFields > 0 && fields->fields == nullptr))
        return refuse("%s: no plugin fields were given", op.name);
    if (check_version(op, *fields) != 0) return 1;
    const int32_t seen = read_all(op, *fields, attributes);
    if (seen < 0) return 1;
    for (int index = 0; index < op.field_count; ++index)
        if (!(seen >> index & 1))
            return refuse("%s: field '%s' is missing; expected %s", op.name, op.fields[index].name,
                          kKindNames[static_cast<int>(op.fields[index].kind)]);
    innerq_config &config = attributes.config;
    config.struct_bytes = sizeof config;
    config.group_size = INNERQ_GROUP;
    config.head_dim = 128;
    config.activation = INNERQ_FP16;
    if (innerq_validate(&config) != INNERQ_OK) return refuse("%s: %s", op.name, innerq_last_message());
    return 0;
}

const nvinfer1::PluginFieldCollection *FieldSet::write(const OpSpec &op, const Attributes &attributes) noexcept {
    values_ = attributes;
    names(op);
    for (int index = 0; index < op.field_count; ++index) {
        const Place place = place_of(op.fields[index].name, values_);
        PluginField &field = fields_[index];
        field.length = 1;
        field.data = place.integer;
        if (place.real != nullptr) field.data = place.real;
        if (place.words == nullptr) continue;
        field.data = place.words[*place.integer];
        field.length = static_cast<int32_t>(strlen(place.words[*place.integer])) + 1;
    }
    return &collection_;
}

const nvinfer1::PluginFieldCollection *FieldSet::names(const OpSpec &op) noexcept {
    for (int index = 0; index < op.field_count; ++index) {
        const FieldSpec &spec = op.fields[index];
        fields_[index] = PluginField(spec.name, nullptr, kKindTypes[static_cast<int>(spec.kind)], 1);
    }
    collection_ = {op.field_count, fields_};
    return &collection_;
}

void describe(const Attributes &attributes, char *text, size_t bytes) noexcept {
    const innerq_config &config = attributes.config;
    snprintf(text, bytes, "spec %d, keys %d-bit %s, values %d-bit %s, key_norm %s, sink %d, recent %d, scale %g",
             config.spec_version, config.key_bits, kModes[config.key_mode], config.value_bits,
             kModes[config.value_mode], kKeyNorms[config.key_norm], config.sink, config.recent, attributes.scale);
}

}  // namespace innerq::trt
