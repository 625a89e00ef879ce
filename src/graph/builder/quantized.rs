//! Nodes over quantized weights: products, embedding rows, and dequantized weights.

use super::super::parameters::Parameter;
use super::super::proto::{element, element_type};
use super::{Attr, GraphBuilder, Value};
use crate::quantize::{Encoding, QuantizedWeight};
use crate::weights::ByteSpan;

impl<'a> GraphBuilder<'a> {
    /// The parameter `name`, if it's quantized.
    pub(super) fn quantized_weight(&self, name: &str) -> Option<&'a QuantizedWeight> {
        match self.parameters.get(&self.scoped_parameter(name))? {
            Parameter::Quantized(weight) => Some(weight),
            Parameter::Stored(_) | Parameter::Input { .. } => None,
        }
    }

    /// The codes of a quantized weight, as products take them.
    fn codes(&mut self, key: &str, weight: &QuantizedWeight) -> Value {
        let [shape, _] = weight.format.shapes(weight.rows, weight.columns);
        self.shared(
            &format!("{key}.codes"),
            element::UINT8,
            &shape,
            &weight.codes,
        )
    }

    /// The product of `x` with a quantized weight.
    pub(super) fn quantized(
        &mut self,
        name: &str,
        x: &Value,
        key: &str,
        weight: &QuantizedWeight,
    ) -> Value {
        let [_, shape] = weight.format.shapes(weight.rows, weight.columns);
        let codes = self.codes(key, weight);
        let name_of_scales = format!("{key}.scales");
        let scales = self.shared(
            &name_of_scales,
            element_type(weight.scales_type),
            &shape,
            &weight.scales,
        );
        let mut attrs = vec![
            ("K", Attr::Int(weight.columns as i64)),
            ("N", Attr::Int(weight.rows as i64)),
            (
                "block_size",
                Attr::Int(weight.format.encoding().block_size() as i64),
            ),
        ];
        let own = weight.format.attributes().iter();
        attrs.extend(own.map(|&(name, value)| (name, Attr::Int(value))));
        let operator = weight.format.operator();
        if operator.has_accuracy_level
            && let Some(level) = self.arithmetic.accuracy_level
        {
            attrs.push(("accuracy_level", Attr::Int(i64::from(level))));
        }
        self.contrib(operator.name, name, &[x, &codes, &scales], &attrs)
    }

    /// The rows `ids` of a quantized matrix; `ids` has one axis if `one_axis`, otherwise two. The
    /// codes are in the layout of products, so that a tied output head shares them. ONNX Runtime's
    /// CUDA kernel computes a value's scale from its index in the whole table, which is right only
    /// if rows are whole blocks, as here (onnxruntime issue 32663).
    pub(super) fn quantized_rows(
        &mut self,
        name: &str,
        ids: &Value,
        one_axis: bool,
        key: &str,
        weight: &QuantizedWeight,
    ) -> Value {
        let codes = self.codes(key, weight);
        let scales = self.scales_of_blocks(key, weight);
        let block = weight.format.encoding().block_size();
        let attrs = [
            ("gather_axis", Attr::Int(0)),
            ("quantize_axis", Attr::Int(2)),
            ("block_size", Attr::Int(block as i64)),
            ("bits", Attr::Int(weight.format.encoding().bits() as i64)),
        ];
        let inputs = [&codes, ids, &scales];
        let blocks = self.contrib(
            "GatherBlockQuantized",
            &format!("{name}/blocks"),
            &inputs,
            &attrs,
        );
        let kept: &[i64] = if one_axis { &[0] } else { &[0, 0] };
        let padded = weight.columns.next_multiple_of(block);
        if padded == weight.columns {
            return self.reshape(name, &blocks, &[kept, &[-1]].concat());
        }
        let joined = self.reshape(
            &format!("{name}/padded"),
            &blocks,
            &[kept, &[padded as i64]].concat(),
        );
        let ends = [("start", 0), ("end", weight.columns as i64), ("axis", -1)];
        let [start, end, axis] =
            ends.map(|(what, value)| self.constant_i64(&format!("{name}/{what}"), &[value], false));
        self.op("Slice", name, &[&joined, &start, &end, &axis], &[])
    }

    /// A dequantized weight in the graph's dtype, `[out, in]`. It's dequantized in every run, as
    /// bitsandbytes does: the nodes depend on `x`, so that ONNX Runtime can't fold them when it
    /// opens the session and keep the result. The weight must not end within a
    /// block ([`Encoding::ends_within_block`]).
    pub(super) fn dequantized(&mut self, key: &str, weight: &QuantizedWeight, x: &Value) -> Value {
        let name = format!("/{key}");
        let at = |what: &str| format!("{name}/{what}");
        // A zero that depends on `x`: its batch size times 0.
        let attrs = [("start", Attr::Int(0)), ("end", Attr::Int(1))];
        let batch = self.op("Shape", &at("batch"), &[x], &attrs);
        let none = self.constant_i64("none", &[0], false);
        let zero = self.mul(&at("zero"), &batch, &none);
        let Encoding::Table {
            values: of_codes,
            block_size: block,
        } = weight.format.encoding()
        else {
            let zero = self.op("Squeeze", &at("zero/scalar"), &[&zero], &[]);
            let [count, one] = [weight.rows as i64, 1].map(|number| {
                let name = format!("scalar_{number}");
                self.constant_i64(&name, &[number], true)
            });
            let all = self.op("Range", &at("all"), &[&zero, &count, &one], &[]);
            return self.quantized_rows(&at("dequantized"), &all, true, key, weight);
        };
        let count = weight.rows * weight.columns / block;
        let bytes = block / 2;
        let blocks = [weight.codes.length as usize / bytes, bytes];
        let codes = self.external(
            &format!("{key}.codes.blocks"),
            element::UINT8,
            &blocks,
            &weight.codes,
        );
        let end = self.constant_i64(&format!("end_{count}"), &[count as i64], false);
        let axis = self.constant_i64("axis_0", &[0], false);
        let codes = self.op("Slice", &at("codes"), &[&codes, &zero, &end, &axis], &[]);
        let codes = self.cast(&at("codes/i32"), &codes, element::INT32);
        // A byte holds two codes.
        let pairs = (0..256).flat_map(|byte| [of_codes[byte >> 4], of_codes[byte & 15]]);
        let pairs: Vec<f32> = pairs.collect();
        let name_of_pairs = format!("{}.pairs", weight.format.name());
        let table = self.constant_float(&name_of_pairs, &[256, 2], &pairs);
        let values = self.gather(&at("values"), &table, &codes, 0);
        let values = self.reshape(&at("values/blocks"), &values, &[-1, block as i64]);
        let scales = self.scales_of_blocks(key, weight);
        let values = self.mul(&at("scaled"), &values, &scales);
        let shape = [weight.rows as i64, weight.columns as i64];
        self.reshape(&at("dequantized"), &values, &shape)
    }

    /// The scales of a quantized weight, with a last axis of size 1 to broadcast over a block's
    /// values.
    fn scales_of_blocks(&mut self, key: &str, weight: &QuantizedWeight) -> Value {
        let [_, mut shape] = weight.format.shapes(weight.rows, weight.columns);
        shape.push(1);
        self.external(
            &format!("{key}.scales.blocks"),
            element_type(weight.scales_type),
            &shape,
            &weight.scales,
        )
    }

    /// An initializer with external data; the same span is added only once.
    fn shared(&mut self, name: &str, data_type: i32, shape: &[usize], span: &ByteSpan) -> Value {
        let place = (span.path.clone(), span.offset);
        if let Some(value) = self.placed.get(&place) {
            return value.clone();
        }
        let value = self.external(name, data_type, shape, span);
        self.placed.insert(place, value.clone());
        value
    }
}
