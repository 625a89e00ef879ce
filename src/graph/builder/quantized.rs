//! Nodes over quantized weights: products, embedding rows, and dequantized weights.

use super::super::parameters::Parameter;
use super::super::proto::{element, element_type};
use super::{Attr, GraphBuilder, Value};
use crate::quantize::{Encoding, QuantizedWeight};
use crate::weights::ByteSpan;

impl<'a> GraphBuilder<'a> {
    /// Whether the parameter `name` is quantized.
    pub fn is_quantized(&self, name: &str) -> bool {
        self.quantized_weight(name).is_some()
    }

    /// The parameter `name`, if it's quantized.
    pub(super) fn quantized_weight(&self, name: &str) -> Option<&'a QuantizedWeight> {
        match self.parameters.get(&self.scoped_parameter(name))? {
            Parameter::Quantized(weight) => Some(weight),
            Parameter::Stored(_) | Parameter::Input { .. } => None,
        }
    }

    /// The codes of a quantized weight, as products take them.
    fn codes(&mut self, key: &str, weight: &QuantizedWeight) -> Value {
        let [shape, _] = weight.shapes();
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
        let [_, shape] = weight.shapes();
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
            ("block_size", Attr::Int(weight.encoding.block_size() as i64)),
        ];
        let own = weight.encoding.attributes().into_iter();
        attrs.extend(own.map(|(name, value)| (name, Attr::Int(value))));
        let operator = weight.encoding.operator();
        if operator.has_accuracy_level
            && let Some(level) = self.arithmetic.accuracy_level
        {
            attrs.push(("accuracy_level", Attr::Int(i64::from(level))));
        }
        let zeros = weight.zeros.as_ref().map(|span| {
            let shape = weight.encoding.zeros_shape(weight.rows, weight.columns);
            self.shared(&format!("{key}.zeros"), element::UINT8, &shape, span)
        });
        let x = match &weight.order {
            Some(order) => &self.in_order(x, order, weight.columns),
            None => x,
        };
        let inputs: Vec<&Value> = [x, &codes, &scales].into_iter().chain(&zeros).collect();
        self.contrib(operator.name, name, &inputs, &attrs)
    }

    /// `x` with its last axis in the order that quantized codes have. Products with the same input
    /// and order share it.
    fn in_order(&mut self, x: &Value, order: &ByteSpan, columns: usize) -> Value {
        let key = (x.clone(), order.clone());
        if let Some(value) = self.ordered.get(&key) {
            return value.clone();
        }
        let number = self.ordered.len();
        let places = self.shared(
            &format!("order.{number}"),
            element::INT64,
            &[columns],
            order,
        );
        let value = self.gather(&format!("/ordered.{number}"), x, &places, -1);
        self.ordered.insert(key, value.clone());
        value
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
        let block = weight.encoding.block_size();
        let attrs = [
            ("gather_axis", Attr::Int(0)),
            ("quantize_axis", Attr::Int(2)),
            ("block_size", Attr::Int(block as i64)),
            ("bits", Attr::Int(weight.encoding.bits() as i64)),
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
            table,
            block_size: block,
        } = weight.encoding
        else {
            if weight.zeros.is_some() || weight.order.is_some() || weight.encoding.bits() == 2 {
                return self.unpacked(&name, key, weight, &zero);
            }
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
        let of_codes = &table.values;
        let pairs = (0..256).flat_map(|byte| [of_codes[byte >> 4], of_codes[byte & 15]]);
        let pairs: Vec<f32> = pairs.collect();
        let name_of_pairs = format!("{}.pairs", table.name);
        let table = self.constant_float(&name_of_pairs, &[256, 2], &pairs);
        let values = self.gather(&at("values"), &table, &codes, 0);
        let values = self.reshape(&at("values/blocks"), &values, &[-1, block as i64]);
        let scales = self.scales_of_blocks(key, weight);
        let values = self.mul(&at("scaled"), &values, &scales);
        let shape = [weight.rows as i64, weight.columns as i64];
        self.reshape(&at("dequantized"), &values, &shape)
    }

    /// A dequantized weight with zero points, an order of its columns, or codes of 2 bits, for which
    /// `GatherBlockQuantized` isn't right. `zero` is the zero that depends on an input.
    fn unpacked(&mut self, name: &str, key: &str, weight: &QuantizedWeight, zero: &Value) -> Value {
        let at = |what: &str| format!("{name}/{what}");
        let (rows, columns) = (weight.rows as i64, weight.columns as i64);
        let (bits, block) = (weight.encoding.bits(), weight.encoding.block_size() as i64);
        let blocks = weight.columns.div_ceil(block as usize) as i64;
        // Each byte's codes, the first in the lowest bits.
        let in_a_byte = 8 / bits;
        let of_byte = |byte: usize| {
            (0..in_a_byte).map(move |place| ((byte >> (place * bits)) & ((1 << bits) - 1)) as f32)
        };
        let of_bytes: Vec<f32> = (0..256).flat_map(of_byte).collect();
        let table = self.constant_float(&format!("codes.{bits}"), &[256, in_a_byte], &of_bytes);
        let codes = self.codes(key, weight);
        let codes = self.cast(&at("codes/i32"), &codes, element::INT32);
        // Adding the zero makes it depend on an input.
        let zero = self.cast(&at("zero/i32"), zero, element::INT32);
        let codes = self.add(&at("codes"), &codes, &zero);
        let values = self.gather(&at("values"), &table, &codes, 0);
        let mut values = self.reshape(&at("values/blocks"), &values, &[rows, blocks, block]);
        let zeros = match &weight.zeros {
            Some(span) => {
                let shape = weight.encoding.zeros_shape(weight.rows, weight.columns);
                let packed = self.shared(&format!("{key}.zeros"), element::UINT8, &shape, span);
                let packed = self.cast(&at("zeros/i32"), &packed, element::INT32);
                let all = self.gather(&at("zeros/values"), &table, &packed, 0);
                let all = self.reshape(&at("zeros/all"), &all, &[rows, -1]);
                let own = self.columns(&at("zeros/own"), &all, blocks);
                self.reshape(&at("zeros"), &own, &[rows, blocks, 1])
            }
            None => self.filled(
                &format!("codes.{bits}.middle"),
                &[],
                (1 << (bits - 1)) as f32,
            ),
        };
        values = self.op("Sub", &at("centred"), &[&values, &zeros], &[]);
        let scales = self.scales_of_blocks(key, weight);
        values = self.mul(&at("scaled"), &values, &scales);
        values = self.reshape(&at("scaled/rows"), &values, &[rows, -1]);
        values = self.columns(&at("own"), &values, columns);
        let Some(order) = &weight.order else {
            return values;
        };
        // Each column's place in the order: where it's sorted to.
        let places = self.shared(
            &format!("{key}.order"),
            element::INT64,
            &[weight.columns],
            order,
        );
        let scatter = self.constant_i64(
            &format!("range.{columns}"),
            &(0..columns).collect::<Vec<_>>(),
            false,
        );
        let inverse = self.op(
            "ScatterElements",
            &at("inverse"),
            &[&scatter, &places, &scatter],
            &[],
        );
        self.gather(&at("dequantized"), &values, &inverse, 1)
    }

    /// The first `count` columns of a matrix.
    fn columns(&mut self, name: &str, matrix: &Value, count: i64) -> Value {
        let ends = [("start", 0), ("end", count), ("axis", 1)];
        let [start, end, axis] =
            ends.map(|(what, value)| self.constant_i64(&format!("{name}/{what}"), &[value], false));
        self.op("Slice", name, &[matrix, &start, &end, &axis], &[])
    }

    /// The scales of a quantized weight, with a last axis of size 1 to broadcast over a block's
    /// values.
    fn scales_of_blocks(&mut self, key: &str, weight: &QuantizedWeight) -> Value {
        let [_, mut shape] = weight.shapes();
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
